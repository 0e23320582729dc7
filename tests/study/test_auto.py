"""The teacher chosen: by the command line and from Python, live and assessed alike."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from preceptor.assess import Choice, choose, forecast
from preceptor.cli import app
from preceptor.data import digits
from preceptor.data.dataset import ArrayDataset, Indexed
from preceptor.errors import InputError
from preceptor.losses import kd
from preceptor.outputs import average_probabilities, transformed
from preceptor.recipe import DistillRecipe, Proxy, Temperature, VectorScaling, parse
from preceptor.runs import (
    load_teacher,
    read_choice,
    read_recipe,
    read_result,
    read_weights,
    save_weights,
    write_choice,
)
from preceptor.study.teachers import auto, choose_teacher, keep_teaching, read_candidates
from preceptor.tasks.teacher import Transformed, as_teacher
from preceptor.training import distill

SPLIT = ["split={train: 300, heldout: 300, test: 200}", "training.device=cpu", "training.batch_size=64"]
TEACH = ["teach", "teach-digits", *SPLIT, "training.epochs=4", "optimizer={name: adamw, lr: 0.01}"]
STUDENT = ["training.epochs=2", *SPLIT]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run that kept its epochs, with the one that teaches best, and one that did not."""
    folder = tmp_path_factory.mktemp("runs")
    run(*TEACH, "--select", "teaching", "--out", str(folder / "kept"))
    run(*TEACH, "objective=mse", "--out", str(folder / "plain"))
    return folder / "kept", folder / "plain"


def recipe(**changes: object) -> DistillRecipe:
    base = read_recipe(Path(changes.pop("like")))  # type: ignore[arg-type]
    raw = {key: base.model_dump(mode="json")[key] for key in ("data", "model", "split", "optimizer", "training")}
    raw["training"] |= {"epochs": 2, "keep": "last", "checkpoint_epochs": 1}
    return parse(DistillRecipe, raw | changes)


@pytest.fixture
def few_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the transforms only the cheapest is searched for, in a test that does not depend on which is found."""
    monkeypatch.setattr(auto, "choose", lambda *a, **k: choose(*a, **k, families=["temperature"]))


def heldout(teacher, run_folder: Path) -> torch.Tensor:
    """What a live teacher says to the held-out samples."""
    parts = json.loads((run_folder / "splits.json").read_text())["parts"]
    return teacher(Indexed(digits().train)[parts["heldout"]])


def test_the_run_keeps_the_epoch_that_teaches_best_with_its_transform(runs):
    kept, _ = runs
    told = keep_teaching(kept)["teaching"]
    candidates = read_candidates([f"{kept}:epochs"])
    labels = candidates[0].labels
    assert labels is not None
    scores = {c.name: np.mean((forecast(c.logits).probs - np.eye(10)[labels]) ** 2) for c in candidates}
    best = min(scores, key=lambda name: scores[name])
    assert best in (f"{kept}:epoch-{told['epoch']}", str(kept))
    stored = read_weights(kept / "teaching.safetensors").transform
    assert (None if stored is None else stored.model_dump(mode="json")) == told["choice"]["transform"]
    assert read_recipe(kept).training.select == "accuracy"


def test_the_live_the_assessed_and_the_stored_teacher_are_one(runs, tmp_path):
    kept = tmp_path / "run"
    shutil.copytree(runs[0], kept)
    choice = keep_teaching(kept)["teaching"]
    weights = read_weights(kept / "teaching.safetensors")
    # A transform of our own, so that the test does not depend on one having been worth it.
    metadata = {k: v for k, v in vars(weights).items() if k != "tensors"}
    metadata["transform"] = {"kind": "temperature", "temperature": 2.5}
    save_weights(kept / "teaching.safetensors", weights.tensors, metadata)
    write_choice(kept, choice)
    reference = parse(DistillRecipe, {"data": "digits", "model": "mlp", "teacher": {"run": str(kept)}}).teacher[0]
    plain = heldout(load_teacher(reference.model_copy(update={"epoch": choice["epoch"]})), kept)
    live = heldout(load_teacher(reference.model_copy(update={"weights": "teaching"})), kept)
    torch.testing.assert_close(live, (plain / 2.5).log_softmax(-1))
    [assessed] = read_candidates([f"{kept}:teaching"])
    np.testing.assert_allclose(assessed.logits, live.double().log_softmax(-1).numpy(), atol=1e-5)


def test_auto_on_the_command_line_says_why_and_goes_on_where_it_was(runs, tmp_path):
    kept, plain = runs
    command = ["distill", "distill-digits", "--teacher", "auto", str(kept), str(plain), *STUDENT]
    output = run(*command, "--out", str(tmp_path / "student"))
    assert "tried" in output
    result = read_result(tmp_path / "student")
    assert {step["name"] for step in result["choice"]["steps"]} >= {"mixture", "temperature", "proxy-classwise"}
    resolved = read_recipe(tmp_path / "student")
    assert isinstance(resolved, DistillRecipe)
    assert sum(reference.weight for reference in resolved.teacher) == pytest.approx(1)
    before = (tmp_path / "student" / "result.json").read_bytes()
    run(*command, "--out", str(tmp_path / "student"))  # complete: chosen alike, and so found again
    assert (tmp_path / "student" / "result.json").read_bytes() == before
    shown = run(*command, "--dry-run")
    assert "teacher:" in shown
    assert "tried" in shown


def test_a_teacher_by_the_name_that_assess_gives_it(runs, tmp_path):
    kept, plain = runs
    ensemble = f"{kept}:epoch-3+{plain}:best"
    run("distill", "distill-digits", "--teacher", ensemble, *STUDENT, "--out", str(tmp_path / "student"))
    references = read_recipe(tmp_path / "student").teacher
    assert [(r.run, r.weights, r.epoch) for r in references] == [(kept, "last", 3), (plain, "best", None)]
    [assessed] = read_candidates([ensemble])
    live = average_probabilities([heldout(load_teacher(reference), kept) for reference in references])
    np.testing.assert_allclose(assessed.logits, live.double().log_softmax(-1).numpy(), atol=1e-5)


def test_all_epochs_of_a_run_are_no_one_teacher(runs):
    kept, _ = runs
    result = CliRunner().invoke(app, ["distill", "distill-digits", "--teacher", f"{kept}:epochs", *STUDENT])
    assert result.exit_code != 0
    assert "stands for several teachers, an epoch each; name one epoch" in " ".join(result.output.split())


def test_a_teacher_of_other_inputs_is_refused_in_one_sentence(runs):
    kept, _ = runs
    other = ArrayDataset(torch.zeros(900, 20), torch.arange(900) % 10)
    with pytest.raises(InputError, match=r"cannot read the data set's inputs of shape \(20,\) .*; distill on the data"):
        distill(recipe(like=kept, teacher=str(kept)), data=other)


def test_the_live_teacher_is_what_was_chosen(runs):
    kept, plain = runs
    loaded, choice = choose_teacher(recipe(like=kept), [kept, plain])
    assert isinstance(choice, Choice)
    members = {c.name: c for c in read_candidates([f"{kept}:epochs", plain])}
    expected = choice.log_probs({name: torch.tensor(members[name].logits) for name in choice.weights})
    live = as_teacher([(load_teacher(reference), reference.weight) for reference in loaded.teacher])
    live = live if loaded.transform is None else Transformed(live, loaded.transform)
    np.testing.assert_allclose(heldout(live, kept).double().log_softmax(-1), expected.log_softmax(-1), atol=1e-4)


@pytest.mark.parametrize(
    ("transform", "kept_transform", "coefficients"),
    [
        (Proxy(coefficients=(0.5,)), None, (0.5,)),
        (Temperature(temperature=2.0), Temperature(temperature=2.0), (0.0,)),
        (None, None, (0.0,)),
    ],
)
def test_under_ptloss_a_proxy_is_the_losss_own(
    runs, few_families, monkeypatch, transform, kept_transform, coefficients
):
    few = auto.choose
    monkeypatch.setattr(auto, "choose", lambda *a, **k: replace(few(*a, **k), transform=transform))
    kept, _ = runs
    loss = {"name": "ptloss", "coefficients": [3.0]}
    loaded, _ = choose_teacher(recipe(like=kept, loss=loss), [kept])
    assert (loaded.transform, loaded.loss.options["coefficients"]) == (kept_transform, coefficients)


def fading(student_logits, teacher_logits, *, temperature=None, coefficients=(1.0, 2.0)):
    """Somebody's own loss, whose options mean something else."""
    return kd(student_logits, teacher_logits)


def test_a_loss_of_ones_own_is_chosen_for_as_kd(runs, few_families):
    kept, _ = runs
    _, choice = choose_teacher(recipe(like=kept, loss=f"{__name__}:fading"), [kept])
    assert (choice.loss, choice.temperature) == ("kd", 1.0)


def test_a_recipes_transform_is_what_the_student_sees(runs):
    kept, _ = runs
    base = recipe(like=kept, teacher=str(kept), training={"epochs": 1, "device": "cpu"})
    hot = base.model_copy(update={"transform": Temperature(temperature=1e4)})
    uniform = distill(hot, teacher=lambda batch: torch.zeros(len(batch["label"]), 10))
    assert distill(hot)["heldout"]["last"]["nll"] == pytest.approx(uniform["heldout"]["last"]["nll"], abs=1e-2)
    assert distill(base)["heldout"]["last"]["nll"] != pytest.approx(uniform["heldout"]["last"]["nll"], abs=1e-2)


@pytest.mark.parametrize(
    "transform",
    [Temperature(temperature=2.0), VectorScaling(scale=(1.0,) * 10, bias=(0.5,) * 10), Proxy(coefficients=(1.0,))],
)
def test_every_transform_survives_a_recipe(transform, runs):
    kept, _ = runs
    read = parse(DistillRecipe, recipe(like=kept).model_copy(update={"transform": transform}).model_dump(mode="json"))
    logits = torch.randn(4, 10)
    torch.testing.assert_close(transformed(logits, read.transform), transformed(logits, transform))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["distill", "distill-digits", "--teacher", "auto"], "there is no run to choose a teacher from"),
        (["distill", "distill-digits", "somewhere"], "'somewhere' is no KEY=VALUE"),
        (["teach", "teach-digits", "--select", "best"], "--select is 'best'; give teaching"),
        (["distill", "distill-digits", "--teacher", "auto", "a", "teacher=b"], "'teacher=b' names a teacher and"),
        (["distill", "distill-digits", "--teacher", "a:best"], "there is no run folder or file 'a:best'"),
        (["distill", "distill-digits", "--teacher", "auto", "nowhere"], "there is no run folder or file 'nowhere'"),
    ],
)
def test_bad_input(arguments, sentence):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_a_file_of_logits_is_no_teacher(runs, tmp_path):
    kept, _ = runs
    np.save(tmp_path / "logits.npy", np.zeros((300, 10)))
    with pytest.raises(InputError, match="'logits' is a file of logits, and no teacher"):
        choose_teacher(recipe(like=kept), [tmp_path / "logits.npy"])


def test_a_transform_for_other_classes_is_refused_before_training(runs, tmp_path):
    kept, _ = runs
    wrong = recipe(like=kept, teacher=str(kept)).model_copy(
        update={"transform": VectorScaling(scale=(1.0, 1.0), bias=(0.0, 0.0))}
    )
    with pytest.raises(InputError, match="for 2 classes and the teacher has 10"):
        distill(wrong, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_keeping_twice_changes_nothing(runs):
    kept, _ = runs
    before = {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    assert keep_teaching(kept) == read_result(kept) | {"teaching": read_choice(kept)}
    assert {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()} == before


def test_there_must_be_something_to_choose_from(runs):
    _, plain = runs
    with pytest.raises(InputError, match="has kept 1 of its epochs, so that there is nothing to choose from"):
        keep_teaching(plain)


def test_epochs_asked_of_a_complete_run_that_kept_none(runs):
    _, plain = runs
    result = CliRunner().invoke(app, [*TEACH, "objective=mse", "training.keep=all", "--out", str(plain)])
    assert result.exit_code != 0
    assert "is complete and has kept its last epoch alone" in " ".join(result.output.split())


def test_the_order_of_the_runs_does_not_change_the_recipe(runs, few_families):
    kept, plain = map(str, runs)
    one, other = (choose_teacher(recipe(like=kept), names)[0] for names in ([kept, plain], [plain, kept]))
    assert one == other
