"""What a recording has shown its teacher is shown to the student again, bit for bit."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import preceptor
from preceptor.data.augment import Augmentation
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.mixing import OWN_SHARE, PARTNER, PARTNER_LABEL
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, override, parse
from preceptor.records import Dense, Manifest, Record, RecordWriter
from preceptor.training.data.batches import Batch, Batches
from preceptor.training.job import Job
from preceptor.training.resolve import distill_job

N, C = 90, 3
SPLIT = {"train": 50, "heldout": 20, "test": 20}
BASE: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [4]},
    "split": SPLIT,
    "training": {"epochs": 4, "batch_size": 16, "device": "cpu"},
}
CHANGES = {
    "crop and flip": {"augmentation": {"name": "crop_flip", "padding": 2}},
    "erasing": {"augmentation": {"name": "random_erasing", "probability": 0.7}},
    "composed": {"augmentation": ["crop_flip", {"name": "cutout", "size": 3}]},
    "mixup": {"mixing": "mixup", "augmentation": "crop_flip"},
    "cutmix": {"mixing": {"name": "cutmix", "alpha": 0.8}},
}


def images(seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (N,), generator=generator)
    inputs = torch.randn(N, 2, 6, 6, generator=generator) + labels[:, None, None, None]
    return Data(ArrayDataset(inputs, labels), None, ("cat", "dog", "eel"))


class Net(nn.Module):
    """A teacher that remembers what it was shown, by view and sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, C))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class Watched:
    """A function of a batch that keeps the batches of a recording."""

    def __init__(self) -> None:
        self.net, self.batches = Net().eval(), []

    def __call__(self, batch: Batch) -> Tensor:
        if "view" in batch:
            self.batches.append({name: tensor.clone() for name, tensor in batch.items()})
        return self.net(batch["input"])

    def shown(self, view: int, name: str) -> dict[int, Tensor]:
        """What each sample of a view brought under a name."""
        found = {}
        for batch in self.batches:
            if int(batch["view"][0]) == view:
                found |= dict(zip(batch["index"].tolist(), batch[name], strict=True))
        return found


def recipe(**changes: Any) -> DistillRecipe:
    return parse(DistillRecipe, BASE | changes)


def job(record: Path, data: Data, **changes: Any) -> Job:
    made = override((BASE | changes), [f"teacher={record}"])
    return distill_job(parse(DistillRecipe, made), None, data=data)


def recorded(folder: Path, data: Data, views: int = 2, **changes: Any) -> Watched:
    teacher = Watched()
    preceptor.record(teacher, folder, data=data, recipe=recipe(**changes), views=views)
    return teacher


def refused(record: Path, data: Data, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        job(record, data, **changes)
    return str(caught.value)


# -- replayed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
def test_the_replayed_input_is_the_recorded_one(name: str, tmp_path: Path) -> None:
    data, changes = images(), CHANGES[name]
    teacher = recorded(tmp_path / "r", data, **changes)
    other = {"seed": 7, "streams": {"split": 0}}  # its order, weights and dropout are another run's
    student = job(tmp_path / "r", data, **changes, **other)
    assert isinstance(student.batches, Batches)
    orders = []
    for epoch in range(4):
        orders.append([])
        for [batch] in student.batches.epoch(epoch):
            for name in {"input", "label", PARTNER, PARTNER_LABEL, OWN_SHARE} & {*batch}:
                wanted = teacher.shown(epoch % 2, name)
                stacked = torch.stack([wanted[index] for index in batch["index"].tolist()])
                assert torch.equal(batch[name], stacked), name
            orders[-1] += batch["index"].tolist()
    assert sorted(orders[0]) == sorted(teacher.shown(0, "input"))
    assert orders[0] != orders[2]  # shuffled anew, whatever is replayed
    first, second = (teacher.shown(view, "input") for view in (0, 1))
    assert any(not torch.equal(first[index], second[index]) for index in first)


@pytest.mark.parametrize("name", CHANGES)
def test_a_view_is_what_an_epoch_of_a_live_run_would_show(name: str, tmp_path: Path) -> None:
    data, changes = images(), CHANGES[name]
    teacher = recorded(tmp_path / "r", data, **changes)
    live = distill_job(recipe(**changes), None, data=data, teacher=Net())
    assert isinstance(live.batches, Batches)
    for epoch in range(2):
        for [batch] in live.batches.epoch(epoch):
            wanted = teacher.shown(epoch, "input")
            assert torch.equal(batch["input"], torch.stack([wanted[i] for i in batch["index"].tolist()]))


def test_the_target_is_the_live_teacher_s(tmp_path: Path) -> None:
    data, changes = images(), CHANGES["mixup"]
    teacher = recorded(tmp_path / "r", data, **changes)
    record = Record(tmp_path / "r")
    for batch in teacher.batches:  # at the recording's batch composition
        live = teacher.net(batch["input"]).log_softmax(-1)
        assert torch.equal(record.log_probs(batch["index"], int(batch["view"][0])), live)
    student = job(tmp_path / "r", data, **changes)
    for [batch] in student.batches.epoch(3):
        said = student.task.teacher(batch)  # type: ignore[attr-defined]
        torch.testing.assert_close(said, teacher.net(batch["input"]).log_softmax(-1), atol=1e-5, rtol=0)


class Noisy:
    """A data set with random transforms of its own, from all global generators."""

    def __init__(self, data: Data) -> None:
        self.inputs, self.labels = data.train.inputs, data.train.labels  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(1) + np.random.rand() + random.random()  # noqa: NPY002
        return self.inputs[index].roll(random.randrange(6), -1) + noise.float(), int(self.labels[index])


def test_random_transforms_of_a_data_set_are_replayed_by_several_workers(tmp_path: Path) -> None:
    data = Data(Noisy(images()), None, ("cat", "dog", "eel"))  # type: ignore[arg-type]
    changes = CHANGES["cutmix"] | {"augmentation": "crop_flip"}
    workers = {"training": BASE["training"] | {"num_workers": 2}}
    teacher = recorded(tmp_path / "r", data, **changes, **workers)
    workers["training"]["num_workers"] = 1
    student = job(tmp_path / "r", data, **changes, **workers, seed=3, streams={"split": 0})
    for epoch in (1, 2):
        for [batch] in student.batches.epoch(epoch):
            for name in ("input", PARTNER, OWN_SHARE):
                wanted = teacher.shown(epoch % 2, name)
                assert torch.equal(batch[name], torch.stack([wanted[i] for i in batch["index"].tolist()]))


def test_a_student_of_a_record_becomes_that_of_the_live_teacher(tmp_path: Path) -> None:
    data, changes = images(), CHANGES["crop and flip"]
    recorded(tmp_path / "r", data, views=4, **changes)
    loss = {"name": "wttm", "temperature": 3.0}  # any temperature, later
    live = preceptor.distill(recipe(**changes), tmp_path / "live", teacher=Net(), data=data, loss=loss)
    result = preceptor.distill(recipe(**changes), tmp_path / "s", teacher=tmp_path / "r", data=data, loss=loss)
    one, other = (preceptor.load(tmp_path / name).state_dict() for name in ("live", "s"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=1e-4)
    assert result["record"] == [{"folder": str(tmp_path / "r"), "form": "dense", "views": 4, "samples": 50}]
    assert result["teacher"]["part"] == "heldout"
    assert result["teacher"]["brier"] == pytest.approx(live["teacher"]["brier"], abs=1e-6)


# -- refused -----------------------------------------------------------------------------------------------------------


def test_what_differs_is_named_with_both_values(tmp_path: Path) -> None:
    data, changes = images(), CHANGES["crop and flip"]
    recorded(tmp_path / "r", data, **changes)
    said = refused(tmp_path / "r", data, augmentation={"name": "crop_flip", "padding": 1})
    assert "'augmentation.padding' is 2 in the record and 1 for the student" in said
    assert "'augmentation' is {'name': 'crop_flip', 'padding': 2} in the record and None" in refused(
        tmp_path / "r", data
    )
    assert "'mixing' is None in the record and {'name': 'mixup'}" in refused(
        tmp_path / "r", data, **changes, mixing="mixup"
    )
    named = Data(data.train, None, ("cat", "eel", "dog"))
    assert "'class_names.1' is 'dog' in the record and 'eel'" in refused(tmp_path / "r", named, **changes)
    changed = images()
    changed.train.inputs[3, 0, 0, 0] += 1  # type: ignore[attr-defined]
    assert "'identity.data.values' is 'sha256:" in refused(tmp_path / "r", changed, **changes)
    scaled = Data(data.train, None, data.class_names, {"divide_by": 2.0})
    assert "'preprocessing" in refused(tmp_path / "r", scaled, **changes)


def test_samples_that_are_not_on_record_are_counted(tmp_path: Path) -> None:
    data = images()
    recorded(tmp_path / "r", data, views=1)
    said = refused(tmp_path / "r", data, seed=1)
    assert "of the 50 training samples in view 0 (the first:" in said
    assert "split and seed that were recorded (streams={split: 0})" in said
    job(tmp_path / "r", data, seed=1, streams={"split": 0})
    job(tmp_path / "r", data, split=SPLIT | {"train": 30})


def test_a_record_of_one_s_own_says_of_which_data_it_is_or_is_refused(tmp_path: Path) -> None:
    data = images()
    manifest = Manifest(form=Dense(), num_classes=C)
    with RecordWriter(tmp_path / "r", manifest) as writer:
        writer.write(torch.arange(N), 0, torch.zeros(N, C).log_softmax(-1))
    assert "does not say which data it is of" in refused(tmp_path / "r", data)


class Outside(Augmentation):
    """Draws when it is applied, from a generator of its own."""

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(num_samples, 1)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        return inputs + torch.rand(1)


def outside() -> Outside:
    return Outside()


class Unseeded(Noisy):
    """Draws from a generator that nobody seeds."""

    generator = np.random.default_rng(0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index] + float(self.generator.random()), int(self.labels[index])


class Stream(IterableDataset[Any]):
    """Samples that come as they come."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Any:
        return iter([self.data.train[i] for i in range(N)])


def test_what_cannot_be_replayed_is_named(tmp_path: Path) -> None:
    data = images()
    with pytest.raises(InputError, match=r"what 'Outside' does to a sample is another when it is done again"):
        recorded(tmp_path / "a", data, augmentation=f"{__name__}:outside")
    unseeded = Data(Unseeded(data), None, data.class_names)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the data set, a Unseeded, gives another sample when it is read again"):
        recorded(tmp_path / "b", unseeded)
    stream = Data(Stream(data), None, data.class_names)
    with pytest.raises(InputError, match=r"a record needs to know each sample again, but Stream is iterable-style"):
        recorded(tmp_path / "c", stream)
    assert not any((tmp_path / name).exists() for name in "abc")
