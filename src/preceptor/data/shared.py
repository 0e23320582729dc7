"""Samples that two parts of the data have in common, where that can be told without reading them."""

from collections.abc import Sized
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.streams import Gathered, unmodified
from preceptor.notices import note


def say_what_is_shared(given: Any) -> None:
    """Note samples that are in two parts of what was handed over as data: `Data`, or a tuple of data sets."""
    for (first, one), (second, other) in combinations(_parts(given).items(), 2):
        shared = num_shared(other, one)
        if shared:
            note(
                f"{shared} of the {len(other)} {second} samples are {first} samples, too: what is scored on them looks "
                "better or surer than it is; leave them out of one of the two"
            )


def _parts(given: Any) -> dict[str, Any]:
    if isinstance(given, Data):
        parts = _parts_of(given)
    elif isinstance(given, tuple) and len(given) in (2, 3):
        names = ("training", "held-out", "test") if len(given) == 3 else ("training", "test")
        parts = dict(zip(names, given, strict=True))
    else:
        parts = {}
    return {name: part for name, part in parts.items() if part is not None}


def _parts_of(data: Data) -> dict[str, Any]:
    heldout = (data.pools or {}).get("heldout")
    if heldout is None:
        return {"training": data.train, "test": data.test}
    rest = sorted(set(range(len(cast(Sized, data.train)))) - set(heldout.tolist()))
    train, validation = Subset(data.train, rest), Subset(data.train, heldout.tolist())
    return {"training": train, "held-out": validation, "test": data.test}


def num_shared(one: Any, other: Any) -> int:
    """How many samples of `one` are samples of `other`, too.

    A sample is known by its place: in the memory of the tensor that holds the inputs (`ArrayDataset`, `TensorDataset`),
    as an object of a list, or by its number in the same data set object; `Subset` and `ConcatDataset` are seen through.
    Copies are not found.

    >>> inputs, labels = torch.zeros(10, 2), torch.arange(10) % 2
    >>> num_shared(TensorDataset(inputs[6:], labels[6:]), ArrayDataset(inputs[:8], labels[:8]))
    2
    """
    owners, places = _places(one)
    others, theirs = _places(other)
    common = np.intersect1d(owners, others)
    return sum(int(np.isin(places[owners == each], theirs[others == each]).sum()) for each in common)


def _places(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample what holds it, and where in it: two arrays (N,) of int64; all memory counts as one holder."""
    if unmodified(dataset, Subset):
        owners, places = _places(dataset.dataset)
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        return owners[chosen], places[chosen]
    if unmodified(dataset, ConcatDataset):
        found = [_places(part) for part in dataset.datasets]
        return np.concatenate([owners for owners, _ in found]), np.concatenate([places for _, places in found])
    size, rows = len(dataset), np.arange(len(dataset), dtype=np.int64)
    inputs = _inputs(dataset)
    if inputs is not None:
        return np.zeros(size, np.int64), inputs.data_ptr() + rows * inputs.stride(0) * inputs.element_size()
    samples = dataset.samples if isinstance(dataset, Gathered) else dataset
    if isinstance(samples, list | tuple):
        return np.zeros(size, np.int64), np.fromiter(map(id, samples), np.int64, size)
    return np.full(size, id(dataset), np.int64), rows


def _inputs(dataset: Any) -> torch.Tensor | None:
    """The tensor that holds the inputs, one a row; None where that is not known."""
    found = None
    if unmodified(dataset, ArrayDataset):
        found = dataset.inputs
    elif unmodified(dataset, TensorDataset):
        found = dataset.tensors[0]
    return found if isinstance(found, torch.Tensor) and found.ndim and found.stride(0) else None
