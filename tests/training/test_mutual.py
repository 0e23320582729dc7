"""Models that teach each other: against the paper's algorithm as a plain loop; killed, stopped and refused."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from typer.testing import CliRunner

import preceptor
from preceptor import runs
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.interrupts import Interrupted
from preceptor.study.teachers import read_candidates
from preceptor.tasks.mutual import Company
from preceptor.training.data.samples import cut, load_data
from preceptor.training.data.streams import Streams
from preceptor.training.loop.loop import Loop
from preceptor.training.mutual import common_moment
from preceptor.training.objects.models import new_model
from training.killed import conv
from training.toys import RECIPE, metrics, snapshot, stopped_at, teach_recipe, weights

PAIR: dict[str, dict[str, Any]] = {
    "large": {"model": {"name": "mlp", "hidden": [20]}},
    "small": {"streams": {"initialization": 1}, "optimizer": {"lr": 0.05}},
}


def together(folder: Path | None, models: Any = PAIR, **keywords: Any) -> Any:
    return preceptor.teach_together(RECIPE, models, folder, **keywords)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    together(folder)
    return folder


def test_the_algorithm_of_the_paper(tmp_path: Path) -> None:
    """Plain SGD without momentum: in each step the first learns from the second, then the second from the new first."""
    plain = {"optimizer": {"lr": 0.1, "momentum": 0, "weight_decay": 0}, "schedule": {"name": "constant"}}
    models = {"a": {}, "b": {"streams": {"initialization": 1}}}
    together(tmp_path, models, weight=0.7, temperature=2.0, **plain)
    recipe = teach_recipe()
    samples = cut(recipe, load_data(recipe), 0)
    first, second = (new_model(teach_recipe(f"streams.initialization={n}"), samples.data, 0, None) for n in (0, 1))
    rows = samples.parts["train"]
    for epoch in range(2):
        order = rows[torch.randperm(len(rows), generator=Streams(0).generator("order", epoch))]
        for batch in order.split(64):
            given = samples.train[batch.tolist()]
            for model, other in ((first, second), (second, first)):
                logits, said = model(given["input"]), other(given["input"]).detach()
                kl = F.kl_div((logits / 2).log_softmax(-1), (said / 2).softmax(-1), reduction="batchmean")
                loss = F.cross_entropy(logits, given["label"]) + 0.7 * 4 * kl
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                        parameter -= 0.1 * gradient
    for name, model in (("a", first), ("b", second)):
        for key, tensor in weights(tmp_path / name).items():
            torch.testing.assert_close(tensor, model.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_each_is_a_run_and_both_are_an_ensemble(pair: Path) -> None:
    large, small = (runs.read_result(pair / name) for name in PAIR)
    assert large["num_parameters"] > small["num_parameters"]
    assert all("mutual" in line["train"] for line in metrics(pair / "large"))
    [both] = read_candidates([f"{pair / 'large'}+{pair / 'small'}"])
    assert len(both.references) == 2
    assert together(pair)["small"] == small  # complete, it is returned as it is


@pytest.mark.parametrize("step", [1, 4])
def test_stopped_anywhere_both_go_on_to_the_same_bits(step: int, pair: Path, tmp_path: Path) -> None:
    with stopped_at(step):
        together(tmp_path)
    together(tmp_path)
    for name in PAIR:
        assert snapshot(tmp_path / name) == snapshot(pair / name)


@pytest.mark.parametrize("death", [1, 2, 3])
def test_killed_between_the_checkpoints_of_the_two(death: int, pair: Path, tmp_path: Path) -> None:
    """After the n-th checkpoint of either: the one is ahead of the other, and goes back."""

    class Killed(Exception):
        pass

    save, count = Loop.save, 0

    def dying(self: Loop) -> bool:
        nonlocal count
        saved = save(self)
        count += 1
        if count == death:
            raise Killed
        return saved

    Loop.save = dying  # type: ignore[method-assign]
    try:
        with pytest.raises(Killed):
            together(tmp_path)
    finally:
        Loop.save = save  # type: ignore[method-assign]
    together(tmp_path)
    for name in PAIR:
        assert snapshot(tmp_path / name) == snapshot(pair / name)


@pytest.mark.parametrize("who", [2, 6, 7])
def test_interrupted_both_are_saved_at_the_same_step(who: int, pair: Path, tmp_path: Path) -> None:
    """The signal comes while the n-th step of either is made; 6 is the last step of the first epoch."""
    step, count = Loop._step, 0

    def interrupting(self: Loop, batches: Any) -> None:
        nonlocal count
        count += 1
        if count == who:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, batches)

    Loop._step = interrupting  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted) as stop:
            together(tmp_path)
    finally:
        Loop._step = step  # type: ignore[method-assign]
    assert stop.value.saved
    moment = common_moment([tmp_path / name for name in PAIR])
    assert moment == f"epoch-000{(who + 1) // 2 // 4}-step-0000000{(who + 1) // 2}"
    together(tmp_path)
    for name in PAIR:
        assert snapshot(tmp_path / name) == snapshot(pair / name)


def test_networks_with_batch_norm_resume(tmp_path: Path) -> None:
    models = {"a": {"model": conv}, "b": {"model": {"name": "mlp", "hidden": [12]}}}
    together(tmp_path / "whole", models)
    with stopped_at(4):
        together(tmp_path / "broken", models)
    together(tmp_path / "broken", models)
    for name in models:
        assert snapshot(tmp_path / "broken" / name) == snapshot(tmp_path / "whole" / name)


def test_the_others_do_not_change() -> None:
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    inputs = torch.randn(8, 3)
    logits = torch.randn(8, 4, requires_grad=True)
    mask = torch.tensor([True] * 6 + [False] * 2)
    values = Company([other.eval(), other], 2.0)({"input": inputs, "mask": mask}, logits)
    values[mask].sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    assert all(parameter.grad is None for parameter in other.parameters())
    assert not other.training
    said = other.train()(inputs)  # the statistics of the batch
    expected = 2 * F.kl_div(logits.log_softmax(-1), said.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(values[mask], expected[mask])
    assert values[~mask].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("models", "keywords", "said"),
    [
        ({"a": {}}, {}, "there is one model, and nobody for it to learn from"),
        ({"a": {}, "b": {}}, {}, r"start as the same network, .* give 'b' streams=\{'initialization': 1\}"),
        (PAIR | {"small": {"training": {"epochs": 3}}}, {}, "differ in epochs"),
        (PAIR | {"small": {"training": {"batch_size": 32}}}, {}, "the models 'large' and 'small' differ in batch_size"),
        (PAIR, {"training": {"patience": 1}}, "may stop before the others"),
        (PAIR, {"weight": 0}, "weight is 0; give a number above 0"),
        (PAIR, {"temperature": -1.0}, "temperature is -1.0"),
        ([PAIR], {}, "the models are a list"),
    ],
)
def test_refused(models: Any, keywords: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        together(tmp_path / "out", models, **keywords)
    assert not (tmp_path / "out").exists()


def test_the_command(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text(yaml.safe_dump(RECIPE | {"training": RECIPE["training"] | {"epochs": 1}}))
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(PAIR))
    arguments = ["teach-together", str(tmp_path / "common.yaml"), str(tmp_path / "pair.yaml"), "--weight", "0.5"]
    outcome = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out"), "--json"], catch_exceptions=False)
    assert list(json.loads(outcome.stdout)) == ["large", "small"]
    shown = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")], catch_exceptions=False).stdout
    assert shown.count("teach: ") == 2


def test_other_company_is_another_run(pair: Path) -> None:
    with pytest.raises(InputError, match="was made with another company"):
        together(pair, PAIR | {"small": {"model": {"name": "mlp", "hidden": [16]}}})
    with pytest.raises(InputError, match="was made with another company"):
        together(pair, weight=2.0)


def test_one_cannot_be_made_anew_without_its_company(tmp_path: Path) -> None:
    together(tmp_path, epochs=1)
    for path in sorted((tmp_path / "small").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=r"is not complete and its company, .* is; remove"):
        together(tmp_path, epochs=1)
