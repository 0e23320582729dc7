"""Samples that are in two parts of the data are counted, and only those."""

from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from preceptor.data.dataset import ArrayDataset, Data, as_data
from preceptor.data.shared import num_shared, say_what_is_shared
from preceptor.notices import notes_kept

X, Y = torch.randn(60, 3), torch.arange(60) % 3
ROWS = [(x, int(y)) for x, y in zip(X, Y, strict=True)]


class Own(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return ROWS[index]


class Renumbering(Subset[Any]):
    """Serves other samples than its indices say."""

    def __getitem__(self, idx: Any) -> Any:
        return ROWS[idx]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [ROWS[index] for index in indices]


OWN, TENSORS, ARRAYS = Own(), TensorDataset(X, Y), ArrayDataset(X, Y)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (OWN, OWN, 60),
        (OWN, Own(), 0),
        (Subset(OWN, range(40)), Subset(OWN, range(30, 60)), 10),
        (Subset(OWN, range(40)), Subset(OWN, range(40, 60)), 0),
        (Subset(OWN, [-1, 0]), Subset(OWN, [59]), 1),
        (Subset(Subset(OWN, range(20, 60)), [0, 1]), Subset(OWN, [20, 25]), 1),
        (Renumbering(OWN, range(40)), Subset(OWN, range(40)), 0),
        (TENSORS, ARRAYS, 60),
        (TENSORS, TensorDataset(X.clone(), Y), 0),
        (ArrayDataset(X[:40], Y[:40]), TensorDataset(X[30:], Y[30:]), 10),
        (ArrayDataset(X[::2], Y[::2]), ArrayDataset(X[1::2], Y[1::2]), 0),
        (ArrayDataset(X, Y, transform=lambda x: x + 1), ARRAYS, 60),
        (Subset(TENSORS, range(5)), ConcatDataset([Own(), Subset(ARRAYS, range(3, 9))]), 2),
        (ConcatDataset([OWN, TENSORS]), OWN, 60),
        (ROWS, ROWS, 60),
        (ROWS[:40], ROWS[30:], 10),
        (ROWS[:30], ROWS[30:], 0),
        (TensorDataset(torch.zeros(1, 3).expand(60, 3), Y), ARRAYS, 0),
    ],
)
def test_samples_are_known_by_their_place(one: Any, other: Any, expected: int) -> None:
    assert num_shared(one, other) == expected


def said(given: Any) -> list[str]:
    as_data(given)
    with notes_kept() as notes:
        say_what_is_shared(given)
    return [note.split(", too")[0] for note in notes]


def test_each_pair_of_parts_is_said() -> None:
    in_train, in_heldout = "60 of the 60 test samples are training samples", "60 of the 60 test samples are held-out"
    assert said((OWN, OWN)) == [in_train]
    assert said((OWN, OWN, OWN)) == [
        "60 of the 60 held-out samples are training samples",
        in_train,
        f"{in_heldout} samples",
    ]
    assert said((OWN, Own(), None)) == said((OWN, Own(), Own())) == said(OWN) == []
    assert said(Data(OWN, OWN, ("0", "1", "2"))) == [in_train]
    assert said(as_data((OWN, Own(), OWN))) == [in_train]
    assert said(as_data((Own(), OWN, OWN))) == [f"{in_heldout} samples"]
