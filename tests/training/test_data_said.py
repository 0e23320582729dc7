"""What a run says of its data before it trains."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

import preceptor
from preceptor import notices
from preceptor.data.dataset import ArrayDataset
from preceptor.errors import InputError
from preceptor.schema import Component
from preceptor.training.objects.criteria import note_squared_error

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 32, "lr": 0.05, "device": "cpu"}


def linear(num_classes: int) -> nn.Module:
    return nn.Linear(5, num_classes)


class Points(Dataset[tuple[Tensor, int]]):
    def __init__(self, count: int = 90, noise: float = 0.0, labels: int = 3) -> None:
        self.count, self.noise, self.labels = count, noise, labels

    def __len__(self) -> int:
        return self.count

    def draw(self) -> Tensor:
        return torch.randn(5)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((5,), float(index % 7)) + self.noise * self.draw(), index % self.labels


class Unseeded(Points):
    """Draws from a generator of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(noise=1.0, **options)
        self.generator = np.random.default_rng(0)

    def draw(self) -> Tensor:
        return torch.tensor(self.generator.normal(size=5), dtype=torch.float32)


def said(capsys: pytest.CaptureFixture[str], data: Any, **options: Any) -> tuple[str, list[str]]:
    result = preceptor.teach(data=data, model=linear, **QUICK, **options)
    of_data = [note for note in result["notes"] if "of an epoch's time" not in note]  # which a busy machine adds
    return capsys.readouterr().err, of_data


HELD_OUT, TEST, UNSEEDED = "the held-out samples are augmented", "the test samples are", "between two readings"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Points(), ()),
        ((Points(), Points(), Points()), ()),
        ((Points(noise=1.0), Points(), Points()), ()),
        (Points(noise=1.0), (HELD_OUT, "being cut from a training set")),
        ((Points(noise=1.0), Points()), (HELD_OUT, "being cut from a training set")),
        ((Points(), Points(noise=1.0), Points()), (HELD_OUT,)),
        ((Points(), Points(), Points(noise=1.0)), (TEST,)),
        (ConcatDataset([Points(400), Points(400, noise=1.0)]), (HELD_OUT, "being cut from a training set")),
        (Unseeded(), (UNSEEDED, "seeded for each sample")),
        ((Unseeded(), Points(), Points()), (UNSEEDED,)),
        (ArrayDataset(torch.zeros(90, 5), torch.arange(90) % 3), ()),
        (
            ArrayDataset(torch.zeros(90, 5), torch.arange(90) % 3, transform=lambda x: x + torch.randn_like(x)),
            (UNSEEDED,),
        ),
    ],
)
def test_samples_that_change_are_said(data: Any, expected: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text, notes = said(capsys, data)
    assert all(part in text for part in expected), text
    assert len(notes) == (1 if expected else 0)
    assert ("being cut from" in text) == ("being cut from a training set" in expected)


def test_a_student_and_a_stack_say_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    preceptor.distill(data=Unseeded(), model=linear, teacher=nn.Linear(5, 3), **QUICK)
    assert UNSEEDED in capsys.readouterr().err
    said_of_stack, _ = said(capsys, Points(noise=1.0), seeds=[0, 1])
    assert said_of_stack.count(HELD_OUT) == 1


def test_classes_without_a_training_sample_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = said(capsys, Points(labels=2), num_classes=4)
    assert "2 of the 4 classes have no training sample (the first: label 2, '2')" in text
    assert said(capsys, Points(), num_classes=3)[1] == []
    text, _ = said(capsys, (Points(labels=2), Points(), Points()), num_classes=3)
    assert "1 of the 3 classes have no training sample (the first: label 2, '2')" in text


def test_num_classes_that_cannot_be() -> None:
    with pytest.raises(InputError, match="the label of sample 2 is 2; with 2 classes"):
        preceptor.teach(data=Points(), model=linear, num_classes=2, **QUICK)
    with pytest.raises(InputError, match="num_classes"):
        preceptor.teach(data="digits", model="mlp", num_classes=5, **QUICK)


class Masked(Points):
    """Samples as mappings, of which a mask leaves some out."""

    def __init__(self, *kept: int) -> None:
        super().__init__()
        self.kept = kept

    def __getitem__(self, index: int) -> Any:
        inputs, label = super().__getitem__(index)
        return {"input": inputs, "label": label, "mask": index in self.kept}


def test_masked_samples_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    whole, some, one = Masked(*range(90)), Masked(*range(1, 90)), Masked(77)
    assert said(capsys, (whole, Masked(*range(90)), Masked(*range(90))))[1] == []
    assert said(capsys, (some, whole, Points()))[1] == ["sample 0 is masked: it counts for nothing in training"]
    scored = "is masked and is scored like any other: leave it out of the data set"
    assert said(capsys, (whole, some, one))[1] == [f"the held-out sample 90 {scored}", f"the test sample 0 {scored}"]
    result = preceptor.teach(data=(one, whole, Points()), model=linear, **QUICK)  # batches of which nothing counts
    assert np.isfinite(result["heldout"]["last"]["nll"])


@pytest.mark.parametrize("part", ["training", "held-out", "test"])
def test_data_of_which_nothing_counts_are_refused(part: str) -> None:
    data = tuple(Masked() if name == part else Points() for name in ("training", "held-out", "test"))
    with pytest.raises(InputError, match=f"all 90 {part} samples are masked, so that none counts"):
        preceptor.teach(data=data, model=linear, **QUICK)


def test_samples_of_two_parts_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    points = Points()
    _, notes = said(capsys, (points, points, points))
    assert [note.split(" samples are ")[0] for note in notes] == [
        "90 of the 90 held-out",
        "90 of the 90 test",
        "90 of the 90 test",
    ]


@pytest.mark.parametrize(
    ("classes", "objective", "said"), [(1001, "mse", 1), (1000, "mse", 0), (1001, "cross_entropy", 0)]
)
def test_squared_error_of_many_classes_cannot_start(classes: int, objective: str, said: int) -> None:
    data = TensorDataset(torch.randn(classes, 5), torch.arange(classes))
    result = preceptor.teach(data=(data, data, data), model=linear, objective=objective, **QUICK)
    assert sum(f"mse over {classes} classes" in note for note in result.get("notes", [])) == said


def test_squared_error_goes_on_from_a_model_with_weights() -> None:
    class Trained(nn.Linear):
        def save_pretrained(self, folder: str) -> None: ...

    component = Component(name="mse")
    with notices.notes_kept() as notes:
        note_squared_error(component, 2000, Trained(2, 2000))
    assert not notes
