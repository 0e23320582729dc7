"""What identifies the samples of a data set beyond their position in it: what stored outputs are matched by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from preceptor.data.indexed import Indexed
from preceptor.data.streams import unmodified
from preceptor.errors import InputError

_COLUMNS = ("id", "ids")


def ids_of(dataset: Any) -> list[str] | None:
    """The id of each sample (N,), as text; None where the data set has none.

    They are its attribute `ids`, its column `id` or `ids` (of the library `datasets`), its files by their paths below
    `root` (torchvision's image folders), or those of the sets that `Subset`, `ConcatDataset` and `Indexed` are made of.

    Raises:
        InputError: another number of ids than of samples.

    >>> dataset = [("a", 0), ("b", 1)]
    >>> ids_of(dataset), ids_of(Subset(dataset, [1]))
    (None, None)
    """
    found = _found(dataset)
    if found is None:
        return None
    if len(found) != len(dataset):
        raise InputError(f"the data set has {len(dataset)} samples and {len(found)} ids; give one for each")
    return [as_id(each) for each in found]


def as_id(value: Any) -> str:
    """An id as text, whatever wrote it: 7, 7.0, "7" and b"7" are one.

    >>> as_id(np.int64(7)), as_id(7.0), as_id(b"7"), as_id("cat/7.png")
    ('7', '7', '7', 'cat/7.png')
    """
    if isinstance(value, Tensor | np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def paths_below(paths: Sequence[str | Path], root: str | Path) -> list[str]:
    """Files by their paths below a folder, with `/` on every system: a tree that is moved keeps its ids.

    >>> paths_below(["/data/cat/0.png"], "/data")
    ['cat/0.png']
    """
    return [Path(path).relative_to(root).as_posix() for path in paths]


def _found(dataset: Any) -> Sequence[Any] | None:
    if isinstance(dataset, Indexed):
        return _found(dataset.dataset)
    ids = getattr(dataset, "ids", None)
    one_each = not isinstance(ids, np.ndarray | Tensor) or ids.ndim == 1  # not the tokens of `TokenDataset`
    if isinstance(ids, Sequence | np.ndarray | Tensor) and not isinstance(ids, str) and one_each:
        return ids  # type: ignore[return-value]
    column = next((name for name in _COLUMNS if name in (getattr(dataset, "column_names", None) or ())), None)
    if column is not None and not isinstance(dataset, Mapping):
        return list(dataset[column])
    if isinstance(dataset, Subset) and unmodified(dataset, Subset):
        below = _found(dataset.dataset)
        return None if below is None else [below[int(index)] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset) and unmodified(dataset, ConcatDataset):
        parts = [_found(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return [each for part in known for each in part] if len(known) == len(parts) else None
    return _of_files(dataset)


def _of_files(dataset: Any) -> list[str] | None:
    """Of a data set that lists its files as torchvision does: `samples` of (path, label), below `root`."""
    samples, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if not isinstance(samples, list) or not isinstance(root, str | Path) or not samples:
        return None
    if not all(isinstance(each, tuple) and isinstance(each[0], str | Path) for each in samples):
        return None
    try:
        return paths_below([path for path, _ in samples], root)
    except ValueError:  # some lie elsewhere
        return None
