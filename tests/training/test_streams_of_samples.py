"""An iterable-style data set: trained on like a map-style one, refused where an objective needs an index it lacks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from preceptor.data import digits
from preceptor.errors import InputError
from preceptor.recipe import TeachRecipe, parse
from preceptor.training import teach


class Digits(IterableDataset[Any]):
    """The digits in a shuffled order, with or without their index."""

    def __init__(self, *, indexed: bool) -> None:
        self.data, self.indexed = digits().train, indexed

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for index in torch.randperm(len(self), generator=torch.Generator().manual_seed(3)).tolist():
            value, label = self.data[index]
            yield {"input": value, "label": label, "index": index} if self.indexed else (value, label)


def recipe(objective: str) -> TeachRecipe:
    return parse(
        TeachRecipe,
        {
            "data": "digits",
            "model": {"name": "mlp", "hidden": [16]},
            "split": {"train": 200, "heldout": 100, "test": "rest"},
            "objective": objective,
            "training": {"epochs": 2, "batch_size": 64, "device": "cpu"},
        },
    )


@pytest.mark.parametrize("objective", ["cross_entropy", "SoTeacher"])
def test_a_stream_with_an_index_equals_the_map_style_data_set(objective: str) -> None:
    streamed = teach(recipe(objective), data=Digits(indexed=True))
    assert streamed["test"] == teach(recipe(objective))["test"]


def test_a_stream_without_an_index_serves_where_none_is_needed() -> None:
    assert teach(recipe("cross_entropy"), data=Digits(indexed=False))["test"]["last"]["accuracy"] > 0


def test_an_objective_that_needs_the_index_says_so() -> None:
    with pytest.raises(InputError, match="the objective 'SoTeacher' needs to know each sample again, but Digits"):
        teach(recipe("SoTeacher"), data=Digits(indexed=False))
