"""Compiled models and captured steps: the same training, to rounding or to the bit, and said where it cannot be."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.errors import InputError
from preceptor.runs.metrics import MetricsLog
from preceptor.tasks import TeachTask
from preceptor.teaching import soteacher
from preceptor.training.engine.compiling import CannotCapture, Captured, Compiled, why_not_captured
from preceptor.training.loop import step as stepping
from preceptor.training.loop.step import Stepper
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


@needs_compiler
def test_a_model_whose_backward_pass_alone_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no backward of it")

    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_backward", fail)
    model = nn.Linear(3, 2)
    made = Compiled(model, 4, "the model", required=False)
    made(torch.ones(4, 3)).sum().backward()
    gradient = model.weight.grad
    assert gradient is not None
    assert torch.equal(gradient, torch.full((2, 3), 4.0))
    assert "the model cannot be compiled (BackendCompilerFailed: " in capfd.readouterr().err
    with pytest.raises(InputError, match=r"no backward of it.*set training.compile to false"):
        Compiled(nn.Linear(3, 2), 4, "the model", required=True)(torch.ones(4, 3))


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
    """What `Captured` promises, without a graph: nobody looks at a loss, and what comes out is overwritten."""

    calls = 0

    def __init__(self, function: Any, batch: Any, count: Tensor, **_: Any) -> None:
        self.function, self.shape = function, batch["input"].shape
        self.stepper, self.output = function.func.__self__, {}

    def fits(self, batch: Any) -> bool:
        return batch["input"].shape == self.shape

    def __call__(self, batch: Any, count: Tensor) -> Any:
        Replayed.calls += 1
        watch, self.stepper.watch = self.stepper.watch, self.stepper.watch or object()
        output, self.stepper.watch = self.function(batch, count), watch
        for name, value in output.items():
            self.output.setdefault(name, value).copy_(value)
        return self.output


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


def test_a_captured_loss_that_is_not_finite_is_found_and_named(
    capturing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "_is_asynchronous", lambda accelerator: True)
    with pytest.raises(InputError, match=r"the logits for sample \d+ are not finite in epoch [01]"):
        preceptor.teach(teach_recipe("optimizer={name: adamw, lr: 1e30}"))
    assert Replayed.calls


class Double(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(5, num_classes, dtype=torch.float64)


def test_sums_do_not_change_with_what_is_overwritten(capturing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(5, dtype=torch.float64, generator=generator), label % 3) for label in range(75)]
    recipe: Any = {"split": {"heldout": 15}, "batch_size": 16, "epochs": 1, "device": "cpu"}
    lines = []

    def keep(log: Any, line: Any) -> int:
        lines.append(line["train"]["objective"])
        return 0

    monkeypatch.setattr(MetricsLog, "append", keep)
    preceptor.teach(data=data, model=Double, **recipe)
    assert Replayed.calls == 3
    monkeypatch.setattr(Stepper, "_prepare_speed", lambda stepper: False)
    preceptor.teach(data=data, model=Double, **recipe)
    assert lines[0] == lines[1]


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


class Moving(nn.Module):
    """A model with a buffer that it changes, in its place or by another tensor, and that may fail."""

    def __init__(self, *, replaces: bool = False, fails_in: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))
        self.replaces, self.fails_in, self.calls = replaces, fails_in, 0

    def step(self, batch: Any, count: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.replaces:
            self.seen = self.seen + 1
        else:
            self.seen += 1
        loss = (self.weight * batch["input"]).sum()
        loss.backward()
        if self.calls == self.fails_in:
            raise RuntimeError("called a synchronizing CUDA operation")
        return {"loss": loss.detach()}


def captured(model: Moving) -> Captured:
    return Captured(
        model.step, {"input": torch.ones(2, 3)}, torch.tensor(2), trained=[model.weight], modules=[model]
    )  # fmt: skip


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for a GPU that captures; in which mode it was asked to."""
    found: list[Any] = []

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    @contextlib.contextmanager
    def graph(_: Any, capture_error_mode: str = "global") -> Iterator[None]:
        found.append(capture_error_mode)
        yield

    for name, thing in {
        "CUDAGraph": object,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "graph": graph,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, thing)
    return found


def test_a_capture_leaves_buffers_as_they_were_and_lets_other_threads_work(modes: list[Any]) -> None:
    model = Moving()
    captured(model)
    assert (model.calls, float(model.seen), modes) == (5, 0.0, ["thread_local"])


@pytest.mark.parametrize("call", [4, 5])
def test_a_capture_that_fails_leaves_no_gradient(modes: list[Any], call: int) -> None:
    model = Moving(fails_in=call)
    with pytest.raises(CannotCapture, match="called a synchronizing"):
        captured(model)
    assert model.weight.grad is None
    assert float(model.seen) == 0.0


def test_a_model_that_replaces_its_buffers_is_not_captured(modes: list[Any]) -> None:
    model = Moving(replaces=True)
    before = model.seen
    with pytest.raises(CannotCapture, match="a new tensor in the place of its buffer 'seen'"):
        captured(model)
    assert model.seen is before
    assert float(before) == 0.0


def test_the_parts_of_an_accumulated_step_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def compiler(module: nn.Module, **_: Any) -> Any:
        return lambda x: sizes.append(len(x)) or module(x)

    monkeypatch.setattr(torch, "compile", compiler)
    preceptor.teach(teach_recipe("training.compile=true", "training.accumulate=2"))
    assert sizes == [32] * 8


def test_more_models_of_one_class_are_compiled_than_torch_would(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, whole = [], torch.compile

    def compiler(module: Any, **options: Any) -> Any:
        return whole(module, backend=lambda graph, _: compiled.append(graph) or graph.forward, **options)

    monkeypatch.setattr(torch, "compile", compiler)
    for width in range(1, 11):
        model = nn.Sequential(nn.Linear(2, width), nn.ReLU())
        assert Compiled(model, 4, "the model", required=True)(torch.zeros(4, 2)).shape == (4, width)
    assert len(compiled) == 10
