"""Data sets that can only be iterated: refused, or read into memory."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from preceptor.errors import InputError

# What is read of a data set beside its samples, where it has it.
_ASKED = ("classes", "class_names", "class_to_idx", "features", "labels", "targets", "target_transform", "fetch")


def require_map_style(dataset: Any) -> None:
    """Refuse what cannot be asked for its samples by number.

    Raises:
        InputError: an iterable-style data set, no data set at all, or a subset of samples that are not there.
    """
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"{type(dataset).__name__} can only be iterated, so its samples have no stable index; give a "
            "map-style data set (one with __getitem__ and __len__)"
        )
    if isinstance(dataset, DataLoader):
        raise InputError(
            "a DataLoader is no data set; give the one that it loads, loader.dataset, and batch_size in the recipe"
        )
    check_answers(dataset)
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not numbered or isinstance(dataset, Mapping | str | bytes | Tensor | np.ndarray | type):
        raise InputError(
            f"a {type(dataset).__name__} is no data set; give a map-style torch data set, such as "
            "TensorDataset(inputs, labels), (train, test) or (train, heldout, test) of those, or a "
            "preceptor.data.dataset.Data"
        )
    if unmodified(dataset, ConcatDataset):
        for part in dataset.datasets:
            require_map_style(part)
    if unmodified(dataset, Subset):
        require_map_style(dataset.dataset)
        _check_indices(np.asarray(dataset.indices), len(dataset.dataset))


def check_answers(dataset: Any) -> None:
    """Refuse a data set that fails when it is asked how long it is, or for what many data sets keep.

    Raises:
        InputError: naming what raised, and what it said.
    """
    asked: dict[str, Callable[[], Any]] = {name: functools.partial(getattr, dataset, name, None) for name in _ASKED}
    if hasattr(type(dataset), "__len__"):
        asked["__len__"] = functools.partial(len, dataset)
    for name, ask in asked.items():
        try:
            ask()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"`{name}` of the data set, a {type(dataset).__name__}, fails ({type(error).__name__}: {error}); mend "
                "it or leave it out"
            ) from error


def unmodified(dataset: Any, kind: type) -> bool:
    """Whether a data set is torch's `kind`, or a subclass that serves the same samples."""
    served = [getattr(type(dataset), name, None) for name in ("__getitem__", "__getitems__")]
    return isinstance(dataset, kind) and served == [getattr(kind, n, None) for n in ("__getitem__", "__getitems__")]


def _check_indices(indices: np.ndarray, length: int) -> None:
    if indices.dtype == bool:
        raise InputError("the indices of a Subset are True and False; give numbers, such as mask.nonzero()[0] of NumPy")
    outside = indices[(indices < -length) | (indices >= length)]
    if len(outside):
        raise InputError(
            f"a Subset holds sample {outside[0]} of a data set that has samples 0 to {length - 1}; leave it out"
        )


class Gathered(Dataset[Any]):
    """An iterable-style data set that was read once, into memory, so that its samples can be shuffled and split.

    Samples that are mappings with an `index` are put into its order; others stay in the order in which they came, which
    another reading of the stream may not repeat (`has_index` is False).

    Args:
        stream: an iterable-style data set with a `__len__`, which says that it ends.

    Raises:
        InputError: no `__len__`, a length that is not kept, or an index that two samples share.
    """

    def __init__(self, stream: "IterableDataset[Any]") -> None:
        check_answers(stream)
        name = type(stream).__name__
        if not isinstance(stream, Sized):
            raise InputError(
                f"{name} can only be iterated and does not say how long it is; give it a __len__, and it is read into "
                "memory, or give a map-style data set (one with __getitem__ and __len__)"
            )
        samples = list(itertools.islice(stream, len(stream) + 1))
        if len(samples) != len(stream):
            found = "more" if len(samples) > len(stream) else str(len(samples))
            raise InputError(f"{name} says that it holds {len(stream)} samples and gives {found}; mend its __len__")
        self.name: str = name
        self.has_index: bool = all(isinstance(sample, Mapping) and "index" in sample for sample in samples)
        if self.has_index:
            samples.sort(key=lambda sample: int(sample["index"]))
            for one, other in itertools.pairwise(samples):
                if int(one["index"]) == int(other["index"]):
                    raise InputError(f"{name} gives the index {int(one['index'])} to two samples; number each once")
        self.samples: list[Any] = samples
        for attribute in ("classes", "class_names", "features"):
            if hasattr(stream, attribute):
                setattr(self, attribute, getattr(stream, attribute))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]
