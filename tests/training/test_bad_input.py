"""Bad input: one clear sentence that names the thing, the value and the remedy; nothing is lost or left
behind.
"""

import dataclasses
import errno
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef, TeachRecipe, override, parse
from preceptor.runs import checkpoint, files
from preceptor.teaching import cross_entropy
from preceptor.training import distill, load_model, load_teacher, read_recipe, read_result, read_splits, teach
from preceptor.training.loop.loop import Loop
from training.toys import RECIPE, distill_recipe, snapshot, stopped_at, teach_recipe


def refused(call: Callable[[], Any], *parts: str) -> str:
    """The one sentence of a refusal, which holds all `parts`."""
    with pytest.raises(InputError) as caught:
        call()
    sentence = str(caught.value)
    for part in parts:
        assert part in sentence, f"{part!r} is not in {sentence!r}"
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def teacher(batch: Any) -> Tensor:
    return batch["input"].flatten(1)[:, 20:30]


# -- recipes whose values only the components know -----------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data=digts"], ["there is no data called 'digts'", "did you mean 'digits'?"]),
        (["data=text"], ["the data 'text' needs 'path'; give data.path=..."]),
        (["model=mpl"], ["there is no model called 'mpl'", "did you mean 'mlp'?"]),
        (["objective=cross_entropi"], ["there is no objective", "did you mean 'cross_entropy'?"]),
        (["objective=average_weights"], ["there is no objective called 'average_weights'"]),
        (["augmentation=crop"], ["there is no augmentation called 'crop'", "crop_flip"]),
        (["model.hiden=[3]"], ["unknown key 'model.hiden' for the model 'mlp'", "did you mean 'hidden'?"]),
        (["model.num_classes=3"], ["unknown key 'model.num_classes' for the model 'mlp'"]),
        (["objective.name=mse", "objective.onn=logit"], ["unknown key 'objective.onn'", "did you mean 'on'?"]),
        (["objective.name=mse", "objective.mask=1"], ["unknown key 'objective.mask'"]),
        (["objective.name=mse", "objective.on=logits"], ["the objective 'mse' refuses", "choose 'softmax' or"]),
        (["objective.name=SoTeacher", "objective.norm=l2"], ["choose 'l1' or 'spectral'"]),
        (["objective.name=SoTeacher", "objective.nrm=l2"], ["unknown key 'objective.nrm'", "did you mean 'norm'"]),
        (["objective.name=tolerant", "objective.k=11"], ["k is 11: choose it in [2, 10]"]),
        (["objective.name=tolerant", "objective.k=1"], ["k is 1: choose 2 or more"]),
        (["objective.name=label_smoothing", "objective.smoothing=a"], ["'label_smoothing' refuses"]),
        (["model.hidden=5"], ["the model 'mlp' refuses {'hidden': 5}"]),
        (["split.train=1"], ["part 'train' with 1 samples holds one class only"]),
        (["split.heldout=1e-4"], ["part 'heldout' has size 0.0001 of 1797 samples"]),
        (["split.train=1797"], ["1797"]),
        (["split.test=rest", "split.train=null"], ["split.test is 'rest', so split.train needs a size"]),
        (["training.precision=fp16"], ["'fp16', which on a CPU would silently run in float32; use bf16 or fp32"]),
        (["training.trackers=[tensorbord]"], ["training.trackers is ['tensorbord']", "tensorboard"]),
    ],
)
def test_a_teacher_that_cannot_be(overrides: list[str], parts: list[str], tmp_path: Path) -> None:
    refused(lambda: teach(teach_recipe(*overrides), tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["loss=kdd"], ["there is no loss called 'kdd'", "did you mean 'kd'?", "package.module:name"]),
        (["loss.name=kd", "loss.temprature=2"], ["unknown key 'loss.temprature'", "did you mean 'temperature'?"]),
        (["loss.name=kd", "loss.temperature=0"], ["the loss 'kd' refuses", "temperature is 0"]),
        (["loss.name=ttm", "loss.temperature=-1"], ["the loss 'ttm' refuses", "temperature is -1"]),
        (["loss=ptloss"], ["the loss 'ptloss' refuses {}", "coefficients"]),
        (["loss.name=ptloss", "loss.coefficients=[[1.0]]"], ["coefficients have shape (1, 1)"]),
        (["loss.name=dkd", "loss.labels=3"], ["unknown key 'loss.labels'"]),
        (["training.precision=fp16"], ["use bf16 or fp32"]),
    ],
)
def test_a_student_that_cannot_be(overrides: list[str], parts: list[str], tmp_path: Path) -> None:
    refused(lambda: distill(distill_recipe(*overrides), tmp_path / "run", teacher=teacher), *parts)
    assert not (tmp_path / "run").exists()


def test_a_student_without_a_teacher(tmp_path: Path) -> None:
    refused(lambda: distill(distill_recipe(), tmp_path / "run"), "lacks the key 'teacher'", "teacher=RUN_FOLDER")


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    recipe = teach_recipe("training.trackers=[wandb]")
    refused(lambda: teach(recipe, tmp_path / "run"), "the tracker 'wandb' is not installed; run pip install wandb")
    refused(lambda: teach(recipe), "training.trackers is ['wandb'], but nothing is kept")


# -- data ----------------------------------------------------------------------------------------------------


def samples(*labels: Any) -> list[tuple[Tensor, Any]]:
    return [(torch.full((1, 8, 8), float(n)), label) for n, label in enumerate(labels * 100)]


class Endless(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield torch.zeros(2), 0


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (Data(samples(0, 1, 5), None, ("a", "b", "c")), ["sample 2 is 5", "from 0 to 2"]),  # type: ignore[arg-type]
        (Data(samples(0, 1), samples(0, 7), ("a", "b")), ["sample 1 is 7", "from 0 to 1"]),  # type: ignore[arg-type]
        (samples(0, 1, -1), ["sample 2 is -1"]),
        (samples(0, 1, 0.5), ["sample 2 is 0.5", "integers"]),
        (samples(0.0, 1.0), ["dtype", "convert with .long()"]),
        (samples(0, "one"), ["not numbers"]),
        (samples(0), ["has 1 class; at least two are needed"]),
        (Endless(), ["Endless can only be iterated", "map-style"]),
        (Data(Endless(), None, ("a", "b")), ["Endless can only be iterated", "map-style"]),
        (Data(samples(0, 1), Endless(), ("a", "b")), ["Endless can only be iterated"]),  # type: ignore[arg-type]
        (7, ["a int is no data set"]),
        ([(torch.zeros(2), 0, 1)] * 9, ["it must be (input, label)"]),
        ([(torch.zeros(1 + n % 2, 2), n % 2) for n in range(300)], ["cannot be stacked"]),
    ],
)
def test_data_that_cannot_be(data: Any, parts: list[str], tmp_path: Path) -> None:
    recipe = teach_recipe("split.test=null") if isinstance(data, Data) and data.test else teach_recipe()
    refused(lambda: teach(recipe, tmp_path / "run", data=data), *parts)
    assert not (tmp_path / "run").exists()


class Rewritten(Dataset[Any]):
    """Samples in files, so to speak: of these nothing but the number is known before they are read."""

    def __init__(self, *labels: int) -> None:
        self.samples = samples(*labels)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def test_data_that_changed_under_a_run(tmp_path: Path) -> None:
    with stopped_at(4):
        teach(teach_recipe(), tmp_path / "run", data=Rewritten(0, 1, 2, 3))
    kept = (tmp_path / "run" / "splits.json").read_bytes()
    refused(
        lambda: teach(teach_recipe(), tmp_path / "run", data=Rewritten(3, 1, 2, 0)),
        "records another split than the data set gives now",
    )
    assert (tmp_path / "run" / "splits.json").read_bytes() == kept


def test_a_test_set_too_many(tmp_path: Path) -> None:
    data = Data(samples(0, 1), samples(0, 1), ("a", "b"))  # type: ignore[arg-type]
    refused(lambda: teach(teach_recipe(), data=data), "split.test is 100", "has its own test set; remove split.test")
    pooled = dataclasses.replace(data, pools={"test": torch.tensor([0])})
    recipe = teach_recipe("split.test=null")
    refused(lambda: teach(recipe, data=pooled), "has its own test set and a pool for the part 'test'; leave one out")


# -- models, objectives, losses of one's own -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (nn.Linear(64, 10), ["the model is a Linear already made; give a function that makes one"]),
        (lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), ["has 7 outputs", "10 classes"]),
        (lambda num_classes: nn.Linear(5, 10), ["cannot take inputs of shape (2, 1, 8, 8)"]),
        (lambda num_classes: "net", ["is a str, not a torch.nn.Module"]),
        (lambda num_classes: nn.LSTM(8, 10), ["returns a tuple", "cannot take"]),
    ],
)
def test_a_model_that_cannot_be(model: Any, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        teach(teach_recipe(), tmp_path / "run", model=model)
    assert any(part in str(caught.value) for part in parts), str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objective", "parts"),
    [
        (nn.functional.cross_entropy, ["'cross_entropy' gives shape () for 2 examples", "without reduction"]),
        (lambda logits, labels, mask: logits.sum(), ["gives shape () for 2 examples; return one value per example"]),
        (lambda logits, labels, mask: logits, ["gives shape (2, 10) for 2 examples"]),
        (lambda logits, labels, mask: None, ["gives a NoneType for 2 examples"]),
    ],
)
def test_an_objective_that_cannot_be(objective: Any, parts: list[str], tmp_path: Path) -> None:
    refused(lambda: teach(teach_recipe(), tmp_path / "run", objective=objective), *parts)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_cannot_be(tmp_path: Path) -> None:
    def loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return student - teacher

    call = lambda: distill(distill_recipe(), tmp_path / "run", teacher=teacher, loss=loss)  # noqa: E731
    refused(call, "the loss 'loss' gives shape (2, 10) for 2 examples", "or a scalar")
    assert not (tmp_path / "run").exists()


def test_an_objective_that_finds_nothing_in_the_model(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(num_classes))

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), -1)

    call = lambda: teach(teach_recipe("objective=SoTeacher"), tmp_path / "run", model=Constant)  # noqa: E731
    refused(call, "Constant has no convolution, batch norm or linear layer to penalise")
    assert not (tmp_path / "run").exists()


# -- NaN -----------------------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """Its output for one input is NaN from some training step on."""

    def __init__(self, num_classes: int, healthy: int = 5) -> None:
        super().__init__()
        self.linear, self.healthy = nn.Linear(64, num_classes), healthy

    def forward(self, x: Tensor) -> Tensor:
        self.healthy -= self.training
        logits = self.linear(x.flatten(1))
        return logits if self.healthy >= 0 else torch.where((torch.arange(len(x)) == 3)[:, None], torch.nan, logits)


def test_nan_names_sample_epoch_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    whole = Loop._step
    monkeypatch.setattr(Loop, "_step", lambda self, b: (seen.append(b[0]["index"]), whole(self, b))[1])
    recipe = teach_recipe("training.checkpoint_every=1")
    sentence = refused(
        lambda: teach(recipe, tmp_path / "run", model=Poisoned),
        f"the logits for sample {int(seen[-1][3]) if seen else ''}",
        "are not finite in epoch 1; lower optimizer.lr or set training.clip_norm",
        "the last good checkpoint is",
        "epoch-0001-step-00000005",
    )
    assert f"sample {int(seen[-1][3])} " in sentence
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors, _ = checkpoint.load(kept)
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
    assert not (tmp_path / "run" / "result.json").exists()


def test_nan_names_the_model_of_a_stack() -> None:
    rates = iter([1, 1e38])

    def model(num_classes: int) -> nn.Module:
        linear = nn.Linear(64, num_classes)
        nn.init.constant_(linear.weight, next(rates) * 1e38 / 1e38)
        return nn.Sequential(nn.Flatten(), linear)

    refused(lambda: teach(teach_recipe(), model=model, seeds=[0, 1]), "the logits of model 1 for sample ", "epoch 0")


@pytest.mark.parametrize("step", [4, 5])
def test_weights_that_have_just_become_nan_are_not_saved(step: int, tmp_path: Path) -> None:
    """In the middle of an epoch the next step tells; at its end, the evaluation."""
    calls = 0

    def objective(logits: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        values = cross_entropy(logits, labels, mask=mask)
        # The first call is a trial; the gradient of this square root is NaN, though its value is 0.
        return values if calls != step + 2 else values + (0 * logits).sum(-1).sqrt()

    refused(
        lambda: teach(teach_recipe("training.checkpoint_every=1"), tmp_path / "run", objective=objective),
        "the logits for sample ",
        "in epoch 1; lower optimizer.lr",
        f"step-{step:08d}",
    )
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert kept.name == f"epoch-0001-step-{step:08d}"
    assert all(t.isfinite().all() for t in checkpoint.load(kept)[0].values() if t.is_floating_point())


def test_a_run_that_diverges(tmp_path: Path) -> None:
    recipe = teach_recipe("optimizer.lr=1e20", "model.hidden=[20,20]", "training.epochs=5")
    refused(lambda: teach(recipe, tmp_path / "run"), "the logits for sample", "lower optimizer.lr")


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that broke off in its second epoch, after a checkpoint; give that."""
    with stopped_at(5):
        teach(teach_recipe("training.checkpoint_every=2"), tmp_path / "run")
    (found,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert found.name == "epoch-0001-step-00000004"
    return found


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def flip(path: Path, position: int = -30) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda c: truncate(c / "state.safetensors"), "is damaged"),
        (lambda c: flip(c / "state.safetensors"), "is damaged"),
        (lambda c: flip(c / "state.safetensors", 3), "is damaged"),
        (lambda c: (c / "state.safetensors").unlink(), "is damaged"),
        (lambda c: (c / "state.safetensors").write_bytes(b""), "is damaged"),
        (lambda c: rewrite(c / "state.json", '"step": 4', '"step": 5'), "is damaged"),
        (lambda c: truncate(c / "state.json"), "is not valid JSON; it is damaged"),
        (lambda c: (c / "state.json").write_text("[]"), "holds a list, not a JSON object"),
        (lambda c: (c / "state.json").unlink(), "No such file"),
        (lambda c: rewrite(c / "state.json", '"schema_version": 1', '"schema_version": 2'), "has format 2, newer"),
    ],
)
def test_a_damaged_checkpoint(damage: Callable[[Path], Any], part: str, stopped: Path) -> None:
    damage(stopped)
    run = stopped.parents[1]
    before = sorted(str(path) for path in run.rglob("*"))
    refused(lambda: teach(teach_recipe("training.checkpoint_every=2"), run), str(stopped), part)
    assert sorted(str(path) for path in run.rglob("*")) == before


def test_a_damaged_checkpoint_can_be_removed(stopped: Path, tmp_path: Path) -> None:
    flip(stopped / "state.safetensors")
    files.remove(stopped)
    teach(teach_recipe("training.checkpoint_every=2"), stopped.parents[1])
    teach(teach_recipe("training.checkpoint_every=2"), tmp_path / "whole")
    assert snapshot(stopped.parents[1]) == snapshot(tmp_path / "whole")


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ["has '3.bias', which the model lacks"]),
        (
            lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)),
            ["'1.weight' has shape (12, 64), the model's has (9, 64)", "'1.bias' has shape (12,)"],
        ),
        (
            lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)),
            ["it lacks '2.bias'"],
        ),
    ],
)
def test_a_checkpoint_of_another_architecture(model: Any, parts: list[str], stopped: Path) -> None:
    run = stopped.parents[1]
    recipe = teach_recipe("training.checkpoint_every=2")
    (run / "objects.json").unlink()  # as of an older version: whose model it is, is not known
    with pytest.raises(InputError) as caught:
        teach(recipe, run, model=model)
    assert "is of another architecture" in str(caught.value)
    assert any(part in str(caught.value) for part in parts), str(caught.value)
    assert "give the model that it was trained with" in str(caught.value)
    assert stopped.is_dir()


def test_metrics_that_were_cut(stopped: Path) -> None:
    truncate(stopped.parents[1] / "metrics.jsonl")
    refused(
        lambda: teach(teach_recipe(), stopped.parents[1]), "metrics.jsonl' has", "bytes where the checkpoint counts"
    )


# -- weights -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "run"
    teach(teach_recipe(), folder)
    return folder


def header(path: Path, **changes: Any) -> None:
    """Change the metadata of weights."""
    tensors, metadata = files.load_tensors(path)
    files.save_tensors(
        path, tensors, {n: v for n, v in {**metadata, **changes}.items() if v is not None or n == "members"}
    )


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda p: torch.save({"weight": torch.zeros(2)}, p), ["is a pickle, which can run code", "save_file"]),
        (lambda p: p.write_bytes(pickle.dumps({"weight": 1})), ["is a pickle"]),
        (truncate, ["is truncated, damaged or not safetensors"]),
        (lambda p: flip(p, 1), ["is truncated, damaged or not safetensors"]),
        (lambda p: p.write_bytes(b""), ["is truncated, damaged or not safetensors"]),
        (lambda p: p.write_bytes(b"\x80\x02\x00\x00\x00\x00\x00\x00{"), ["is truncated, damaged or not"]),
        (lambda p: p.unlink(), ["there are no weights at"]),
        (lambda p: header(p, schema_version=3), ["has format 3, newer than this Preceptor's 2; upgrade"]),
        (lambda p: header(p, temperature=None), ["lacks 'temperature'; it is damaged"]),
        (lambda p: header(p, model=None), ["does not say which model it belongs to"]),
        (
            lambda p: header(p, model={"name": "mlp", "hidden": [13]}),
            ["another architecture: '1.bias' has shape (12,)"],
        ),
        (lambda p: header(p, model={"name": "mlpp"}), ["there is no model called 'mlpp'"]),
    ],
)
def test_weights_that_are_none(damage: Callable[[Path], Any], parts: list[str], taught: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes((taught / "last.safetensors").read_bytes())
    damage(path)
    refused(lambda: load_model(path), *parts)


# -- run folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["optimizer.lr=0.2"], ["optimizer.lr is 0.1 there and 0.2 here"]),
        (["model.hidden=[3]"], ["model.hidden is [12] there and [3] here"]),
        (["average.kind=ema"], ["average"]),
        (["objective.name=mse", "objective.on=logit"], ["objective.name is 'cross_entropy' there and 'mse' here"]),
    ],
)
def test_a_folder_of_another_recipe(overrides: list[str], parts: list[str], taught: Path) -> None:
    before = snapshot(taught)
    parts = [f"the run folder '{taught}' holds another recipe", "give another folder", *parts]
    with pytest.raises(InputError) as caught:
        teach(teach_recipe(*overrides), taught)
    assert all(part in str(caught.value) for part in parts[:2])
    assert caught.value.argument == "folder"
    assert snapshot(taught) == before


def test_a_folder_of_another_verb(taught: Path) -> None:
    refused(lambda: distill(distill_recipe(), taught, teacher=teacher), "holds another recipe")


def test_folders_that_are_no_runs(taught: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    refused(lambda: teach(teach_recipe(), tmp_path / "full"), "exists and is no run folder", "give a new one")
    refused(lambda: teach(teach_recipe(), tmp_path / "full" / "thesis.txt"), "exists and is no run folder")
    inside = tmp_path / "full" / "thesis.txt" / "run"
    refused(lambda: teach(teach_recipe(), inside), "could not save", "Not a directory")
    for read in (read_recipe, read_result, lambda path: load_teacher(TeacherRef(run=path))):
        refused(lambda read=read: read(tmp_path / "full"), "is no run folder: it has no recipe.yaml")
        refused(lambda read=read: read(tmp_path / "nowhere"), "is no run folder: it has no recipe.yaml")
    refused(lambda: read_splits(tmp_path / "full"), "cannot read", "splits.json")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_an_incomplete_teacher(stopped: Path) -> None:
    run = stopped.parents[1]
    recipe = distill_recipe(f"teacher={run}")
    refused(lambda: distill(recipe), f"the run '{run}' is not complete", "run the same command again")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"schema_version": 3}, ["has format 3, newer than this Preceptor's 2; upgrade Preceptor"]),
        ({"schema_version": None}, ["is damaged: its content does not match its SHA-256"]),
        ({"schema_version": 1, "heldout": None, "files": None, "sha256": None}, ["lacks 'heldout'; it is damaged"]),
        ({"heldout": None}, ["is damaged: its content does not match its SHA-256"]),
        ({"schema_version": 1}, ["is damaged: its content does not match its SHA-256"]),
        ({"sha256": None}, ["is damaged: its content does not match its SHA-256"]),
        ({"verb": "teech"}, ["is damaged: its content does not match its SHA-256"]),
    ],
)
def test_results_that_are_none(change: dict[str, Any], parts: list[str], taught: Path, tmp_path: Path) -> None:
    content = json.loads((taught / "result.json").read_text()) | change
    (tmp_path / "recipe.yaml").write_text((taught / "recipe.yaml").read_text())
    content = {name: value for name, value in content.items() if value is not None or name == "test"}
    (tmp_path / "result.json").write_text(json.dumps(content))
    refused(lambda: read_result(tmp_path), *parts)


def test_splits_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text("{}")
    refused(lambda: read_splits(tmp_path), "lacks 'parts'; it is damaged")


# -- a full disk ---------------------------------------------------------------------------------------------


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_disk_that_is_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = teach_recipe("training.checkpoint_every=2")
    with stopped_at(5):
        teach(recipe, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        refused(lambda: teach(recipe, tmp_path / "run"), "could not save", "No space left on device", "untouched")
        refused(lambda: teach(recipe, tmp_path / "new"), "could not save", "No space left on device")
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert {p: content for p, content in after.items() if p.name != "metrics.jsonl"} == {
        p: content for p, content in before.items() if p.name != "metrics.jsonl"
    }
    teach(recipe, tmp_path / "run")
    teach(recipe, tmp_path / "new")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "new")


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """No imitation: the system refuses to write more than some bytes to a file."""
    resource = pytest.importorskip("resource")
    recipe = teach_recipe("training.checkpoint_every=1")
    with stopped_at(2):
        teach(recipe, tmp_path / "run")
    (before,) = (tmp_path / "run" / "checkpoints").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        sentence = refused(lambda: teach(recipe, tmp_path / "run"), "could not save", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ".preceptor-" not in sentence
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == [before]
    assert not list((tmp_path / "run").rglob(".*.preceptor-*"))
    teach(recipe, tmp_path / "run")
    teach(recipe, tmp_path / "whole")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def test_the_sentences_end_alike() -> None:
    """A recipe's own refusals are in tests/test_recipe.py; here the form of one of them."""
    sentence = refused(lambda: parse(TeachRecipe, override(RECIPE, ["optimizer.lrr=1"])), "did you mean 'lr'?")
    assert re.fullmatch(r"[^;]+; [^;]+", sentence)
