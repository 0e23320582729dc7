"""Whether a data set gives the same sample when it is asked again."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from preceptor.data.dataset import ArrayDataset, Gathered
from preceptor.data.indexed import Indexed
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError
from preceptor.inputs import equal

_MOST = 128


def known_to_repeat(dataset: Any) -> bool:
    """Whether a data set is one of those that hold their samples, and do nothing to them that is drawn at random."""
    if type(dataset) is Subset:
        return known_to_repeat(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(known_to_repeat, dataset.datasets))
    if isinstance(dataset, ArrayDataset):
        own = type(dataset).fetch is ArrayDataset.fetch and type(dataset).__getitem__ is ArrayDataset.__getitem__
        return own and (dataset.transform is None or isinstance(dataset.transform, Normalize))
    return type(dataset) in (TensorDataset, Gathered, list, tuple)


def first_changed(dataset: Indexed, indices: Tensor, labels: Tensor, *, epoch: int) -> int | None:
    """The first of the samples at `indices` whose input is another in `epoch` than in epoch 0; None if none is.

    For epoch 0 it is read twice under one seed: a difference comes from a generator that nobody seeds. At most 128
    samples are read, all along `indices`; none of a data set that is known to repeat.

    Args:
        labels: of the whole data set (N,), by which it was split and is scored.

    Raises:
        InputError: a sample that has another label now.

    >>> first_changed(Indexed([(torch.zeros(2), 0), (torch.rand(2), 1)]), torch.arange(2), torch.arange(2), epoch=1)
    """
    if known_to_repeat(dataset.dataset):
        return None
    few = torch.linspace(0, len(indices) - 1, min(_MOST, len(indices))).round().to(torch.int64)
    kept = dataset.epoch
    try:
        for index in indices[few].tolist():
            dataset.epoch = 0
            before = dataset[[index]]
            dataset.epoch = epoch
            after = dataset[[index]]
            for label in (before["label"], after["label"]):
                if label.numel() == 1 and int(label) != int(labels[index]):
                    raise InputError(
                        f"the label of sample {index} is {int(labels[index])} in one reading and {int(label)} in "
                        "another; give each sample one label, and draw what is random in an objective or a loss"
                    )
            if not equal(before["input"], after["input"]):
                return index
    finally:
        dataset.epoch = kept
    return None
