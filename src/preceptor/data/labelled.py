"""The labels of a whole data set, as cheaply as they can be had and as its samples give them."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from preceptor.data.generators import preserved_generators, seed_generators
from preceptor.data.indexed import Indexed, ignored_by, input_and_label, sample_of
from preceptor.data.labels import check_labels, class_number, one_number
from preceptor.data.streams import unmodified
from preceptor.errors import InputError

_SPREAD, _CLASSES = 64, 192  # samples that are looked at before stored labels are believed


def labels_of(dataset: Any, num_classes: int | None = None) -> Tensor:
    """Every label of a map-style data set, int64 (N,); of one with a label for every position (N, L).

    They are those of the attribute `labels` or `targets` where the data set has one (`Subset`, `ConcatDataset` and
    `Indexed`: where the sets below have one), if a few hundred samples that are read agree; otherwise each sample is
    read once. Those of a data set that says which labels do not count (`ignore_index`) are believed and stay as they
    are.

    Raises:
        InputError: a label that is not one class number, with its sample; no sample at all.

    >>> labels_of([(torch.zeros(2), 1), (torch.zeros(2), 0)])
    tensor([1, 0])
    """
    if len(dataset) == 0:
        raise InputError("the data set is empty; at least one sample is needed")
    parts = _parts(dataset)
    labels = torch.cat([_labels(part) for part in parts])
    ignored = [_ignored(part) for part in parts]
    counting = None if ignored[0] is None or ignored.count(ignored[0]) < len(parts) else labels != ignored[0]
    return check_labels(labels, num_classes, mask=counting)


def stored_labels(dataset: Any) -> Tensor | None:
    """The labels (N,) that a data set, or the one below a `Subset`, has in an attribute; None where its samples have
    others, or it has none.
    """
    stored = _stored(dataset)
    if stored is None or stored.is_floating_point() or stored.is_complex():
        return None
    read = _read(dataset, _some(stored))
    return stored.to(torch.int64) if all(label == int(stored[index]) for index, label in read) else None


def _parts(dataset: Any) -> list[Any]:
    """The data sets that one is made of end to end."""
    if isinstance(dataset, Indexed):
        return _parts(dataset.dataset)
    if unmodified(dataset, ConcatDataset):
        return [part for each in dataset.datasets for part in _parts(each)]
    return [dataset]


def _ignored(dataset: Any) -> int | None:
    """The label that does not count in a data set, or in the one below a `Subset`."""
    return _ignored(dataset.dataset) if unmodified(dataset, Subset) else ignored_by(dataset)


def _rows(dataset: Any) -> Tensor | None:
    """The labels of every position, int64 (N, L), of a data set that has them, or of the one below a `Subset`."""
    if unmodified(dataset, Subset):
        below = _rows(dataset.dataset)
        return None if below is None else below[torch.as_tensor(np.asarray(dataset.indices), dtype=torch.int64)]
    found = getattr(dataset, "labels", None)
    if not isinstance(found, Tensor) or found.dtype != torch.int64 or found.ndim < 2:
        return None
    return found if len(found) == len(dataset) and ignored_by(dataset) is not None else None


def _labels(dataset: Any) -> Tensor:
    if (rows := _rows(dataset)) is not None:
        return rows
    stored = stored_labels(dataset)
    if stored is not None:
        return stored
    read = [class_number(label, index) for index, label in _read(dataset, range(len(dataset)))]
    return check_labels(read, signed=True)


def _read(dataset: Any, indices: Any) -> Iterator[tuple[int, Any]]:
    """The labels of the samples at `indices`, each as a number where it is one."""
    with preserved_generators():
        for index in indices:
            seed_generators(0, 0, index)
            yield index, one_number(input_and_label(sample_of(dataset, index), index)[1])


def _stored(dataset: Any) -> Tensor | None:
    """What an attribute says, which need not be true: int (N,), before any check."""
    if isinstance(dataset, Indexed):
        return _stored(dataset.dataset)
    if getattr(dataset, "target_transform", None) is None:
        for name in ("labels", "targets"):
            found = _numbers(getattr(dataset, name, None), len(dataset))
            if found is not None:
                return found
    if isinstance(dataset, Subset):
        below = _stored(dataset.dataset)
        return None if below is None else below[torch.as_tensor(np.asarray(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        below = [_stored(part) for part in dataset.datasets]
        known = [labels for labels in below if labels is not None]
        return torch.cat(known) if len(known) == len(below) else None
    return None


def _numbers(stored: Any, length: int) -> Tensor | None:
    """One number a sample, or None."""
    if not isinstance(stored, Sized) or len(stored) != length:
        return None
    try:
        found = stored if isinstance(stored, Tensor) else torch.as_tensor(np.asarray(stored))
    except (TypeError, ValueError, RuntimeError):
        return None
    return found.reshape(-1) if found.numel() == length else None


def _some(labels: Tensor) -> list[int]:
    """Samples all along a data set, and the first of each class."""
    spread = torch.linspace(0, len(labels) - 1, min(_SPREAD, len(labels))).round().to(torch.int64)
    order = labels.argsort(stable=True)
    changes = torch.cat([torch.ones(1, dtype=torch.bool), labels[order].diff() != 0])
    return torch.cat([spread, order[changes][:_CLASSES]]).unique().tolist()
