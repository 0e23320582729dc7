"""The loop: Ctrl-C, best weights, averages, what is written down."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preceptor import interrupts
from preceptor.recipe import TeachRecipe
from preceptor.teaching import cross_entropy
from preceptor.training import distill, read_recipe, read_result, read_splits, teach
from preceptor.training.loop.loop import Interrupted, Loop
from preceptor.training.loop.step import Stepper
from training.toys import (
    assert_close,
    distill_recipe,
    metrics,
    snapshot,
    state_tensors,
    stopped_at,
    teach_recipe,
    weights,
    without_time,
)

SOTEACHER = ("objective=SoTeacher", "training.epochs=3", "model.dropout=0.1", "average.decay=0.9")


def signalling(step: int, *numbers: int) -> Any:
    """A loop step that sends this process signals while it runs."""
    whole = Loop._step

    def stepping(self: Loop, batches: Any) -> None:
        if self.progress.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        whole(self, batches)

    return stepping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", [0, 4, 5, 8])
def test_ctrl_c_saves_and_the_run_goes_on(
    step: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = teach_recipe(*SOTEACHER)
    teach(recipe, tmp_path / "whole")
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", signalling(step, number))
        with pytest.raises(Interrupted) as caught:
            teach(recipe, tmp_path / "run")
    assert (caught.value.number, caught.value.saved) == (number, True)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name == f"epoch-{step // 3:04d}-step-{step + 1:08d}"
    teach(recipe, tmp_path / "run")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_SAME", 0.0)
    monkeypatch.setattr(Loop, "_step", signalling(1, signal.SIGINT, signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        teach(teach_recipe(), tmp_path / "run")
    assert caught.value.saved is False
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_signal_to_the_process_and_its_group_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_step", signalling(1, signal.SIGTERM, signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        teach(teach_recipe(), tmp_path / "run")
    assert caught.value.saved


def test_what_is_not_kept_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_step", signalling(1, signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        teach(teach_recipe())
    assert caught.value.saved is False


def test_an_ignored_hangup_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_step", signalling(1, signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.listening():
            teach(teach_recipe("training.epochs=1"), tmp_path / "run")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_result(tmp_path / "run")


def test_ctrl_c_during_the_last_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Loop._end_epoch

    def ending(self: Loop, seconds: float) -> None:
        if self.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        whole(self, seconds)

    monkeypatch.setattr(Loop, "_end_epoch", ending)
    with pytest.raises(Interrupted):
        teach(teach_recipe(), tmp_path / "run")
    result = teach(teach_recipe(), tmp_path / "run")
    assert without_time(result) == without_time(read_result(tmp_path / "run"))


def test_a_run_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=teach, args=(teach_recipe("training.epochs=1"), tmp_path / "run"))
    thread.start()
    thread.join()
    assert read_result(tmp_path / "run")["verb"] == "teach"


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    """Found again by training only so far: with a constant rate, a shorter run is the beginning of a longer
    one.
    """
    long = ("training.epochs=6", "schedule.name=constant", "optimizer.lr=1.5", "training.select=nll")
    result = teach(teach_recipe(*long), tmp_path / "long")
    scores = [line["heldout"]["nll"] for line in metrics(tmp_path / "long")]
    best = min(range(6), key=scores.__getitem__)
    assert result["best_epoch"] == best
    assert result["heldout"]["best"]["nll"] == pytest.approx(scores[best], abs=1e-9)
    assert result["heldout"]["last"]["nll"] == pytest.approx(scores[-1], abs=1e-9)
    teach(teach_recipe(*long, f"training.epochs={best + 1}"), tmp_path / "short")
    assert_close(weights(tmp_path / "long", "best"), weights(tmp_path / "short"), 0)


def test_accuracy_is_selected_upwards(tmp_path: Path) -> None:
    result = teach(teach_recipe("training.epochs=5", "training.select=accuracy"), tmp_path / "run")
    scores = [line["heldout"]["accuracy"] for line in metrics(tmp_path / "run")]
    assert result["best_epoch"] == scores.index(max(scores))


def test_infinite_scores_are_kept_and_resumed(tmp_path: Path) -> None:
    """A label that has probability 0 in every epoch: JSON knows no infinity, the run goes on all the same."""
    clip = ("objective.name=mse", "objective.on=logit", "distribution=clip", "training.select=nll")
    recipe = teach_recipe(*clip, "training.epochs=3")
    teach(recipe, tmp_path / "whole")
    with stopped_at(4):
        teach(recipe, tmp_path / "run")
    state = json.loads((tmp_path / "run/checkpoints/epoch-0001-step-00000003/state.json").read_text())
    assert state["progress"]["best_score"] == [None]
    teach(recipe, tmp_path / "run")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")
    assert metrics(tmp_path / "run")[0]["heldout"]["nll"] is None


@pytest.mark.parametrize(("kind", "start"), [("ema", 0), ("swa", 0), ("swa", 2), ("ema", 1)])
def test_averages(kind: str, start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain formula over the weights after each step, with batch norm's statistics among them."""
    seen: list[dict[str, Tensor]] = []
    whole = Loop._step

    def stepping(self: Loop, batches: Any) -> None:
        whole(self, batches)
        if self.progress.epoch >= start:
            seen.append({n: t.detach().clone() for n, t in self.raw_model.state_dict().items()})

    monkeypatch.setattr(Loop, "_step", stepping)
    model = lambda num_classes: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))  # noqa: E731
    recipe = teach_recipe(
        "training.epochs=3", f"average.kind={kind}", "average.decay=0.8", f"average.start_epoch={start}"
    )
    result = teach(recipe, tmp_path / "run", model=model)
    expected = {name: tensor.double() for name, tensor in seen[0].items()}
    for count, state in enumerate(seen[1:], 1):
        for name, tensor in state.items():
            rate = 0.2 if kind == "ema" else 1 / (count + 1)
            expected[name] += rate * (tensor.double() - expected[name])
    found = weights(tmp_path / "run", "average")
    for name, tensor in expected.items():
        if tensor.ndim:  # batch norm's counter is an integer
            torch.testing.assert_close(found[name].double(), tensor, atol=1e-5, rtol=1e-5)
    assert_close(weights(tmp_path / "run", "last"), seen[-1], 0)
    scores = [line["heldout"]["nll"] for line in metrics(tmp_path / "run")]
    assert result["heldout"]["average"]["nll"] == pytest.approx(scores[-1])  # it is the average that is selected


def test_bfloat16_trains(tmp_path: Path) -> None:
    result = teach(teach_recipe("training.precision=bf16", "objective=SoTeacher"), tmp_path / "run")
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / "run").values())
    full = teach(teach_recipe("objective=SoTeacher"))
    assert result["heldout"]["last"]["brier"] == pytest.approx(full["heldout"]["last"]["brier"], abs=0.02)
    assert result["heldout"]["last"] != full["heldout"]["last"]


def test_tensorboard_is_written_and_a_run_can_follow(tmp_path: Path) -> None:
    for name in ("first", "second"):
        teach(teach_recipe("training.trackers=[tensorboard]"), tmp_path / name)
        assert list((tmp_path / name).rglob("events.out.tfevents*"))


def test_checkpoints_are_kept_on_request(tmp_path: Path) -> None:
    teach(teach_recipe("training.keep=all", "training.checkpoint_every=2"), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    steps = [2, 3, 4, 6]
    assert [int(name[-8:]) for name in names] == steps
    teach(teach_recipe("training.checkpoint_every=1"), tmp_path / "run")  # circumstances may differ


def test_progress_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(teach_recipe(), tmp_path / "a run of mine", progress=True)
    assert "a run of mine" in capsys.readouterr().err
    teach(teach_recipe())
    assert capsys.readouterr() == ("", "")


def test_a_complete_run_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = teach(teach_recipe(), tmp_path / "run")
    monkeypatch.setattr(Loop, "run", lambda self: pytest.fail("trained again"))
    assert teach(teach_recipe(), tmp_path / "run") == first == read_result(tmp_path / "run")


def test_what_a_run_folder_holds(tmp_path: Path) -> None:
    recipe = distill_recipe("split.transfer=100", "seed=3")
    result = distill(recipe, tmp_path / "run", teacher=lambda batch: batch["input"].flatten(1)[:, :10])
    assert read_recipe(tmp_path / "run") == recipe
    assert not isinstance(read_recipe(tmp_path / "run"), TeachRecipe)
    splits = read_splits(tmp_path / "run")
    assert {name: len(index) for name, index in splits.items()} == {
        "heldout": 50, "transfer": 100, "test": 100, "train": 150
    }  # fmt: skip
    together = torch.cat(list(splits.values()))
    assert len(together.unique()) == len(together)
    assert result["num_parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert result["circumstances"]["packages"].keys() == {"torch", "numpy", "accelerate", "safetensors"}
    assert metrics(tmp_path / "run")[0].keys() == {"epoch", "step", "lr", "train", "heldout"}
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 8]


def test_transfer_labels_are_never_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are, the student is the same."""
    from preceptor.data import digits
    from preceptor.data.dataset import ArrayDataset, Data
    from preceptor.training.data import samples

    data: Any = digits()
    recipe = distill_recipe("split.transfer=100", "ce_weight=0.5")
    teacher = lambda batch: batch["input"].flatten(1)[:, 20:30]  # noqa: E731
    monkeypatch.setattr(samples, "labels_of", lambda *_: data.train.labels)  # what the split is stratified by
    for loss in ("kd", "dkd"):
        chosen = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"name": loss})})
        distill(chosen, tmp_path / f"{loss}-true", teacher=teacher, data=data)
        transfer = read_splits(tmp_path / f"{loss}-true")["transfer"]
        labels = data.train.labels.clone()
        labels[transfer] = labels[transfer].roll(1)
        other = Data(ArrayDataset(data.train.inputs, labels), None, data.class_names)
        distill(chosen, tmp_path / f"{loss}-false", teacher=teacher, data=other)
        assert_close(weights(tmp_path / f"{loss}-true"), weights(tmp_path / f"{loss}-false"), 0)


def test_the_loss_is_what_it_says(tmp_path: Path) -> None:
    """One step of plain SGD by hand."""
    whole = ("training.epochs=1", "training.batch_size=150", "optimizer.momentum=0", "optimizer.weight_decay=0")
    recipe = distill_recipe(*whole, "schedule.name=constant", "ce_weight=0.3", "distill_weight=0.6", "loss.name=ttm",
                            "loss.temperature=2.0")  # fmt: skip
    made: list[nn.Module] = []

    def model(num_classes: int) -> nn.Module:
        made.append(nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)))
        return made[-1]

    def teacher(batch: Any) -> Tensor:
        return batch["input"].flatten(1)[:, 20:30] * 3

    with stopped_at(0):
        distill(recipe, tmp_path / "none", teacher=teacher, model=model)
    first = {name: tensor.clone().requires_grad_() for name, tensor in made[0].state_dict().items()}
    distill(recipe, tmp_path / "run", teacher=teacher, model=model)
    from preceptor.data import digits
    from preceptor.data.dataset import Indexed
    from preceptor.losses import ttm

    batch = Indexed(digits().train)[read_splits(tmp_path / "run")["train"].tolist()]
    logits = torch.func.functional_call(made[0], first, (batch["input"],))
    hard = cross_entropy(logits, batch["label"]).mean()
    soft = ttm(logits, teacher(batch), temperature=2.0).mean()
    (0.3 * hard + 0.6 * soft).backward()
    expected = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in first.items()}
    assert_close(weights(tmp_path / "run"), expected, 1e-6)
    line = metrics(tmp_path / "run")[0]["train"]
    assert line == pytest.approx({"ce": hard.item(), "distill": soft.item()})


def test_the_objective_is_asked_as_the_contract_says() -> None:
    calls: list[Any] = []

    class Listening(nn.Module):
        def bind(self, **known: Any) -> None:
            calls.append(("bind", sorted(known), known["num_samples"], known["num_classes"], known["stack"]))

        def start_epoch(self, epoch: int, epochs: int) -> None:
            calls.append(("start_epoch", epoch, epochs))

        def forward(self, logits: Tensor, labels: Tensor, *, index: Tensor, mask: Tensor | None = None) -> Tensor:
            calls.append(("forward", len(index)))
            return cross_entropy(logits, labels, mask=mask)

        def penalty(self, tensors: Any) -> Tensor:
            calls.append(("penalty", *tensors))
            return 0.0 * tensors["1.weight"].sum()

        def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
            calls.append(("observe", len(index), int(mask.sum()), logits.requires_grad))

    teach(teach_recipe("training.accumulate=2", "training.epochs=1"), objective=Listening())
    names = ("penalty", "1.weight", "1.bias", "3.weight", "3.bias")
    assert calls == [
        ("bind", ["model", "num_classes", "num_samples", "stack"], 1797, 10, ()),
        ("start_epoch", 0, 1),
        *[("forward", 32), ("forward", 32), names, ("observe", 64, 64, False)] * 2,
        *[("forward", 11), ("forward", 11), names, ("observe", 22, 22, False)],
    ]


def test_the_history_of_soteacher_is_in_the_checkpoint(tmp_path: Path) -> None:
    teach(teach_recipe(*SOTEACHER), tmp_path / "run")
    visits = state_tensors(tmp_path / "run")["objective:consistency.visits"]
    train = read_splits(tmp_path / "run")["train"]
    assert (visits[train] == 3).all()
    assert visits.sum() == 3 * 150


def test_a_resumed_optimizer_keeps_its_memory_format(tmp_path: Path) -> None:
    """Convolution kernels have their channels last; what is kept for them must, too, or sums round differently."""
    formats: list[list[tuple[int, ...]]] = []

    def model(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, num_classes))

    whole = Loop._step

    def watching(self: Loop, batches: Any) -> None:
        state = self.optimizer.state_dict()["state"]
        formats.append([slots["momentum_buffer"].stride() for slots in state.values()])
        whole(self, batches)

    with stopped_at(5):
        teach(teach_recipe("training.checkpoint_every=4"), tmp_path / "run", model=model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", watching)
        teach(teach_recipe(), tmp_path / "whole", model=model)
        teach(teach_recipe("training.checkpoint_every=4"), tmp_path / "run", model=model)
    assert formats[6] == formats[4] != []
    assert formats[4][2] == (36, 1, 12, 4)  # channels last


def test_the_time_of_all_starts_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves a second at each step: the last checkpoint before the break has seen four of them."""
    now = 0.0
    whole = Loop._step

    def stepping(self: Loop, batches: Any) -> None:
        nonlocal now
        now += 1
        whole(self, batches)

    monkeypatch.setattr(Loop, "_step", stepping)
    monkeypatch.setattr("preceptor.training.loop.loop.time.perf_counter", lambda: now)
    recipe = teach_recipe("training.checkpoint_every=2")
    with stopped_at(5):
        teach(recipe, tmp_path / "run")
    assert now == 5.0
    now += 100.0  # between the starts
    assert teach(recipe, tmp_path / "run")["time_total"] == 6.0  # as if it had never been stopped


class NoFloat64(TorchDispatchMode):
    """A device without float64, played by the CPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in tree_leaves(made)):
            raise TypeError(f"{function} makes float64")
        return made


def without_float64(method: Any) -> Any:
    def watched(self: Loop, *args: Any) -> Any:
        with NoFloat64():
            return method(self, *args)

    return watched


@pytest.mark.parametrize("seeds", [(), (0, 1)])
def test_a_device_without_float64(seeds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the loop does on the device (steps, sums, checkpoints, resuming) stays in float32; scores are the CPU's
    business.
    """
    recipe = teach_recipe(*SOTEACHER[:2], "average.decay=0.9", "training.checkpoint_every=2", "training.clip_norm=1.0")
    teach(recipe, tmp_path / "whole", seeds=seeds)
    monkeypatch.setattr("preceptor.training.engine.device._HAVE_FLOAT64", {"cuda"})
    for owner, name in ((Loop, "_step"), (Loop, "save"), (Loop, "_resume"), (Stepper, "means")):
        monkeypatch.setattr(owner, name, without_float64(getattr(owner, name)))
    with stopped_at(5):
        teach(recipe, tmp_path / "run", seeds=seeds)
    teach(recipe, tmp_path / "run", seeds=seeds)
    assert_close(weights(tmp_path / "run"), weights(tmp_path / "whole"), 0)
    for line, other in zip(metrics(tmp_path / "run"), metrics(tmp_path / "whole"), strict=True):
        for part, value in line["train"].items():
            assert value == pytest.approx(other["train"][part], rel=1e-6)
