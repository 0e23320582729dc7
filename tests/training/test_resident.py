"""Arrays on the device that trains: one copy for all who use it, and never one of what the arrays were before."""

import gc
from typing import Any

import pytest
import torch

from preceptor.data.dataset import ArrayDataset, Indexed
from preceptor.training.data import resident as module
from preceptor.training.data.resident import resident

GPU = torch.device("cuda")  # as accelerate calls the only one, without a number


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for a GPU: which copies were made."""
    made: list[int] = []

    def copy(arrays: ArrayDataset, device: torch.device) -> ArrayDataset:
        made.append(len(made))
        return ArrayDataset(arrays.inputs.clone(), arrays.labels.clone(), transform=arrays.transform)

    monkeypatch.setattr(module, "_copy", copy)
    return made


def arrays() -> ArrayDataset:
    return ArrayDataset(torch.arange(6.0)[:, None], torch.arange(6) % 3)


def test_a_copy_is_shared_and_goes_with_the_last_who_uses_it(copies: list[int]) -> None:
    data = arrays()
    trains, scores = resident(Indexed(data), GPU), resident(Indexed(data), GPU)
    assert trains.dataset is scores.dataset
    assert trains.dataset is not data
    del trains, scores
    gc.collect()
    resident(Indexed(data), GPU)
    assert copies == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.inputs.mul_(2.0),
        lambda data: data.labels.fill_(1),
        lambda data: setattr(data, "inputs", data.inputs + 1),
        lambda data: setattr(data, "transform", torch.neg),
    ],
)
def test_data_that_were_changed_are_moved_again(copies: list[int], change: Any) -> None:
    data = arrays()
    before = resident(Indexed(data), GPU)  # held by what a failed run has left, such as its traceback
    change(data)
    after = resident(Indexed(data), GPU)
    assert after.dataset is not before.dataset
    for one, other in zip(after.dataset.fetch([1, 5]), data.fetch([1, 5]), strict=True):
        assert torch.equal(one, other)
