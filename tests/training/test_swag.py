"""SWAG against the moments of its snapshots and of its normal; the samples' folder as a teacher of every verb."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn
from typer.testing import CliRunner

from preceptor import runs
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.runs.load import load
from preceptor.runs.references import teacher_references
from preceptor.runs.verify import verify
from preceptor.study.teachers import choose_teacher, read_candidates
from preceptor.training import distill, posterior, record, teach
from preceptor.training.data.samples import cut, load_data
from preceptor.training.engine.device import make_accelerator
from preceptor.training.optim.swag import swag
from preceptor.training.posterior import estimate_statistics
from training.killed import conv
from training.toys import distill_recipe, teach_recipe

KEPT = ["training.epochs=6", "training.keep=all", "schedule.name=constant", "split.transfer=40"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swag") / "run"
    teach(teach_recipe(*KEPT), folder)
    return folder


@pytest.fixture(scope="module")
def drawn(run: Path) -> Path:
    posterior(run, run.parent / "drawn", samples=3)
    return run.parent / "drawn"


# -- the normal --------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_snapshots() -> None:
    values = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0))
    found = swag([{"w": value} for value in values], rank=4)
    np.testing.assert_allclose(found.mean["w"], values.double().numpy().mean(0))
    np.testing.assert_allclose(found.variance["w"], values.double().numpy().var(0))
    means = [values[: n + 1].double().mean(0) for n in range(7)]
    expected = torch.stack([values[n].double() - means[n] for n in range(3, 7)])
    torch.testing.assert_close(found.deviations["w"], expected)


def test_samples_have_the_covariance_of_the_paper() -> None:
    """Half of the diagonal and half of D D' / (K - 1), also between tensors."""
    generator = torch.Generator().manual_seed(1)
    snapshots = [{"a": torch.randn(2, generator=generator), "b": torch.randn(1, generator=generator)} for _ in range(6)]
    found = swag(snapshots, rank=5)
    draws = [found.sample(generator) for _ in range(20_000)]
    rows = np.stack([np.concatenate([draw["a"].numpy(), draw["b"].numpy()]) for draw in draws])
    flat = np.stack([np.concatenate([each["a"].numpy(), each["b"].numpy()]) for each in snapshots]).astype(float)
    deviations = np.stack([row - flat[: n + 1].mean(0) for n, row in enumerate(flat)])[-5:]
    expected = 0.5 * (np.diag(flat.var(0)) + deviations.T @ deviations / 4)
    np.testing.assert_allclose(rows.mean(0), flat.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(rows.T), expected, atol=0.03)


def test_without_scale_a_sample_is_the_mean() -> None:
    found = swag([{"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([3.0, 5.0])}])
    assert found.sample(torch.Generator(), scale=0)["w"].tolist() == [2.0, 5.0]
    assert found.sample(torch.Generator().manual_seed(0))["w"][1] == 5.0  # what never moved has no variance


# -- a run's -----------------------------------------------------------------------------------------------------------


def test_samples_are_drawn_round_the_mean_of_the_snapshots(run: Path, drawn: Path) -> None:
    each = [load(f"{run}:epoch-{epoch}").state_dict() for epoch in (4, 5, 6)]
    posterior(run, run.parent / "means", samples=2, scale=0, start_epoch=3)
    for member in (0, 1):
        for name, tensor in load(f"{run.parent / 'means'}:member-{member}").state_dict().items():
            torch.testing.assert_close(tensor, sum(state[name] for state in each) / 3)  # type: ignore[arg-type]
    first, second = (load(f"{drawn}:member-{member}").state_dict() for member in (0, 1))
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert runs.read_result(drawn)["posterior"]["epochs"] == [4, 5, 6]


def test_the_folder_is_one_teacher(run: Path, drawn: Path) -> None:
    names = (drawn, f"{drawn}:members", f"{drawn}:member-1", run)
    together, members, one, source = [read_candidates([name], transfer=True)[0] for name in names]
    assert [each.member for each in together.references] == [0, 1, 2]
    np.testing.assert_array_equal(together.logits, members.logits)
    recipe = teach_recipe(*KEPT)
    samples = cut(recipe, load_data(recipe), recipe.seed)
    inputs = samples.train[samples.parts["heldout"].tolist()]["input"]
    said = [softmax(load(f"{drawn}:member-{n}")(inputs).detach().double().numpy(), -1) for n in range(3)]
    np.testing.assert_allclose(np.exp(together.logits), np.mean(said, 0), atol=1e-6)
    np.testing.assert_allclose(np.exp(one.logits), said[1], atol=1e-6)
    np.testing.assert_array_equal(one.ids, source.ids)  # type: ignore[arg-type]
    np.testing.assert_array_equal(one.students_see["transfer"].ids, source.students_see["transfer"].ids)
    mixture = runs.read_result(drawn)["posterior"]["mixture"]["heldout"]
    labels = samples.labels[samples.parts["heldout"]].numpy()
    assert mixture["accuracy"] == pytest.approx((np.mean(said, 0).argmax(-1) == labels).mean())
    assert not verify(drawn).problems


def test_a_student_learns_from_it(drawn: Path, tmp_path: Path) -> None:
    recipe = distill_recipe("split.transfer=40", "training.epochs=1")
    a = distill(recipe, tmp_path / "a", teacher=drawn)
    b = distill(recipe, tmp_path / "b", teacher=[f"{drawn}:member-{n}" for n in range(3)])
    assert a["heldout"] == b["heldout"]
    assert len(runs.read_recipe(tmp_path / "a").teacher) == 3  # type: ignore[union-attr]
    assert len(teacher_references(str(drawn))) == 3


def test_it_is_chosen_and_recorded(run: Path, drawn: Path, tmp_path: Path) -> None:
    chosen, choice = choose_teacher(distill_recipe("split.transfer=40"), [run, drawn])
    assert set(choice.weights) <= {f"{run}:epoch-{epoch}" for epoch in range(1, 7)} | {str(drawn)}
    assert len(chosen.teacher) == sum(3 if name == str(drawn) else 1 for name in choice.weights)
    record(drawn, tmp_path / "record")
    [recorded] = read_candidates([tmp_path / "record"])
    [live] = read_candidates([drawn])
    np.testing.assert_allclose(recorded.logits, live.logits, atol=1e-5)


def test_it_is_the_same_again_and_refuses_to_be_another(run: Path, drawn: Path, tmp_path: Path) -> None:
    stamp = (drawn / "last.safetensors").stat().st_mtime_ns
    assert posterior(run, drawn, samples=3) == runs.read_result(drawn)
    assert (drawn / "last.safetensors").stat().st_mtime_ns == stamp
    posterior(run, tmp_path / "again", samples=3)
    twin = [load(f"{folder}:member-2").state_dict() for folder in (drawn, tmp_path / "again")]
    assert all(torch.equal(twin[0][name], twin[1][name]) for name in twin[0])
    with pytest.raises(InputError, match="made with another posterior"):
        posterior(run, drawn, samples=3, seed=1)
    with pytest.raises(InputError, match="holds a stack of 3 models, not a stack of 2"):
        posterior(run, drawn, samples=2)


def test_batch_norm_is_estimated_anew(tmp_path: Path) -> None:
    """Against means over the same batches of what the layer before it gives."""
    teach(teach_recipe(*KEPT, "training.epochs=4"), tmp_path / "run", model=conv)
    posterior(tmp_path / "run", tmp_path / "p", samples=2, model=conv)
    recipe = teach_recipe(*KEPT)
    samples = cut(recipe, load_data(recipe), recipe.seed)
    for member in (0, 1):
        model: Any = load(f"{tmp_path / 'p'}:member-{member}", model=conv)
        with torch.no_grad():
            maps = model[0](samples.train[samples.parts["train"].tolist()]["input"])
        # The batches are of 64, 64 and 22 samples, and the mean is one of batches.
        torch.testing.assert_close(model[1].running_mean, maps.mean((0, 2, 3)), atol=0.1, rtol=0.2)
        assert int(model[1].num_batches_tracked) == 3
        own = load(f"{tmp_path / 'run'}", model=conv)
        assert not torch.equal(model[1].running_mean, own[1].running_mean)  # type: ignore[index]


def tied(num_classes: int) -> nn.Module:
    """A layer under two names."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh())
    net.append(net[1])
    return net.append(nn.Linear(64, num_classes))


def test_a_parameter_of_two_names_is_drawn_too(tmp_path: Path) -> None:
    teach(teach_recipe(*KEPT, "training.epochs=4"), tmp_path / "run", model=tied)
    posterior(tmp_path / "run", tmp_path / "p", samples=2, model=tied)
    states = [load(f"{tmp_path / 'p'}:member-{member}", model=tied).state_dict() for member in (0, 1)]
    last = load(f"{tmp_path / 'run'}", model=tied).state_dict()
    for state in states:
        torch.testing.assert_close(state["1.weight"], state["3.weight"], rtol=0, atol=0)
        assert not torch.equal(state["1.weight"], last["1.weight"])
    assert not torch.equal(states[0]["1.weight"], states[1]["1.weight"])


def test_batch_norm_statistics_are_means_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9))
    batches = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (5, 9)]
    estimate_statistics(model, iter(batches), make_accelerator(teach_recipe().training))
    torch.testing.assert_close(model[0].running_mean, sum(each.mean(0) for each in batches) / 2)
    torch.testing.assert_close(model[0].running_var, sum(each.var(0) for each in batches) / 2)
    assert model[0].momentum == 0.1
    assert not model.training


def test_the_command(run: Path, tmp_path: Path) -> None:
    arguments = ["posterior", str(run), "--samples", "2", "--rank", "2", "-o", str(tmp_path / "p")]
    outcome = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(outcome.stdout)["posterior"]["rank"] == 2
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "member-1" in shown
    assert "mixture" in shown
    split = "split={train: 150, heldout: 50, test: 100, transfer: 40}"
    student = ["distill", "distill-digits", split]
    printed = CliRunner().invoke(app, [*student, "--teacher", str(tmp_path / "p"), "--dry-run"], catch_exceptions=False)
    assert printed.stdout.count("member:") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_epoch": 5}, "has kept 1 epochs after epoch 5, and a posterior needs two or more"),
        ({"samples": 0}, "samples is 0; give 1 or more"),
        ({"scale": -1.0}, "scale is -1.0; give 0 or more"),
        ({"rank": 1}, "rank is 1; give 2 or more"),
    ],
)
def test_refused(options: dict[str, Any], said: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        posterior(run, tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_a_stack_and_other_data_are_refused(run: Path, tmp_path: Path) -> None:
    teach(teach_recipe("training.epochs=1"), tmp_path / "stack", seeds=[0, 1])
    with pytest.raises(InputError, match="is a stack of 2 models; give a run of a single one"):
        posterior(tmp_path / "stack", tmp_path / "p")
    whole: Any = load_data(teach_recipe()).train
    inputs, labels = whole.fetch(torch.arange(1000))
    with pytest.raises(InputError, match="gives another split than the run"):
        posterior(run, tmp_path / "p", data=torch.utils.data.TensorDataset(inputs, labels))
