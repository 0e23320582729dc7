"""Compiled models and captured steps: the same training, to rounding or to the bit, and said where it cannot be."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.errors import InputError
from preceptor.tasks import TeachTask
from preceptor.teaching import soteacher
from preceptor.training import step as stepping
from preceptor.training.compiling import CannotCapture, Compiled, why_not_captured
from preceptor.training.step import Stepper
from training.toys import assert_close, distill_recipe, snapshot, stopped_at, teach_recipe, weights

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


class Stubborn(nn.Module):
    """A model that no compiler takes; in training mode only, as it is looked at beforehand."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def refusing(module: nn.Module, **options: Any) -> Any:
    """Stands in for `torch.compile` where the compiler fails."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    return fail


@needs_compiler
def test_a_compiled_run_is_the_same_to_rounding_and_resumes_to_the_bit(tmp_path: Path) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = distill_recipe("training.compile=true", "cache=false", "loss=kd")
    preceptor.distill(recipe, tmp_path / "compiled", teacher=teacher)
    plain = distill_recipe("cache=false", "loss=kd")
    preceptor.distill(plain, tmp_path / "plain", teacher=teacher)
    assert_close(weights(tmp_path / "compiled"), weights(tmp_path / "plain"), 1e-4)
    with stopped_at(4):
        preceptor.distill(recipe, tmp_path / "stopped", teacher=teacher)
    preceptor.distill(recipe, tmp_path / "stopped", teacher=teacher)
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "compiled")


def test_auto_compiles_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "compile", refusing)
    preceptor.teach(teach_recipe("training.compile=auto"), tmp_path / "auto")
    preceptor.teach(teach_recipe(), tmp_path / "plain")
    one, other = weights(tmp_path / "auto"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_model_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", refusing)
    with pytest.raises(InputError, match=r"the model cannot be compiled \(RuntimeError: no such operator\); set"):
        preceptor.teach(teach_recipe("training.compile=true"), model=Stubborn)


def test_or_runs_as_it_is_where_that_was_not_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", refusing)
    model = Stubborn(3)
    compiled = Compiled(model, 4, "the model", required=False)
    x = torch.rand(4, 64)
    assert torch.equal(compiled(x), model(x))
    assert torch.equal(compiled(x), model(x))
    assert capsys.readouterr().err.count("the model cannot be compiled") == 1


def test_batches_of_another_size_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda x: "compiled")
    compiled = Compiled(nn.Identity(), 4, "the model", required=True)
    assert [isinstance(compiled(torch.zeros(size, 2)), str) for size in (4, 3, 4, 5)] == [True, False, True, False]


# -- captured steps, whose graph is stood in for -----------------------------------------------------------------------


class Replayed:
    """What `Captured` promises, without a graph."""

    calls = 0

    def __init__(self, function: Any, batch: Any, count: Tensor, *, trained: Any, buffers: Any) -> None:
        self.function, self.shape = function, batch["input"].shape

    def fits(self, batch: Any) -> bool:
        return batch["input"].shape == self.shape

    def __call__(self, batch: Any, count: Tensor) -> Any:
        Replayed.calls += 1
        return self.function(batch, count)


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "_prepare_speed", lambda stepper: True)
    monkeypatch.setattr(stepping, "Captured", Replayed)
    Replayed.calls = 0


def test_a_captured_run_has_the_same_bits_and_its_last_small_batch_goes_without(
    capturing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preceptor.teach(teach_recipe(), tmp_path / "captured")
    assert Replayed.calls == 4  # of two epochs of 64, 64 and 22 samples
    monkeypatch.undo()
    preceptor.teach(teach_recipe(), tmp_path / "plain")
    assert snapshot(tmp_path / "captured") == snapshot(tmp_path / "plain")


def test_what_cannot_be_captured_is_said_and_goes_on(
    capturing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CannotCapture("operation not permitted when stream is capturing")

    monkeypatch.setattr(stepping, "Captured", fail)
    result = preceptor.teach(teach_recipe())
    assert "a step is not captured as a CUDA graph: operation not permitted" in capsys.readouterr().err
    assert any("not captured" in each for each in result["notes"])


def test_why_a_step_is_not_captured() -> None:
    plain = TeachTask(nn.Linear(2, 3), nn.functional.cross_entropy)
    changing = TeachTask(nn.Linear(2, 3), soteacher.SoTeacher(), num_samples=4, num_classes=3)
    assert why_not_captured(plain, micro_batches=1, processes=1, scaled=False) is None
    assert why_not_captured(changing, micro_batches=1, processes=1, scaled=False) == "'SoTeacher' changes along the run"
    assert why_not_captured(plain, micro_batches=2, processes=1, scaled=False) == "a step has several micro-batches"
