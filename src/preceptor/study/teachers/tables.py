"""Predictions and labels that others have written, in ``.npz``, ``.npy`` and Parquet files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preceptor.data.arrays import Parquet, read_npy, read_npz
from preceptor.data.files import blamed_on
from preceptor.data.row_labels import label_of
from preceptor.errors import InputError

__all__ = ["Table", "read_array", "read_table"]

# A row of a table is one sample, so that Parquet users think of its column in the singular.
_NAMES = {
    "logits": ("logits",),
    "labels": ("labels", "label"),
    "ids": ("ids", "id"),
    "counts": ("counts",),
    "truth": ("truth",),
    "groups": ("groups", "group"),
    "weights": ("weights", "weight"),
}
_WANTED = {name for names in _NAMES.values() for name in names}


@dataclass(frozen=True, eq=False)
class Table:
    """What a file tells of N samples; None for what it does not hold."""

    logits: np.ndarray | None = None
    """Logits, log-probabilities or probabilities `(N, C)`."""
    labels: np.ndarray | None = None
    """Class indices `(N,)`."""
    ids: np.ndarray | None = None
    """What identifies the samples, `(N,)`."""
    counts: np.ndarray | None = None
    """How many human raters chose each class, `(N, C)`."""
    truth: np.ndarray | None = None
    """The true label distribution, `(N, C)`, where it is known."""
    groups: np.ndarray | None = None
    """What names the group of each sample, `(N,)`, where some belong together."""
    weights: np.ndarray | None = None
    """How much each sample stands for, `(N,)`."""


def read_table(path: Path) -> Table:
    """Read a file of samples.

    An ``.npz`` file holds arrays ``logits`` (N, C), ``labels`` (N,), ``ids`` (N,), ``counts`` (N, C), ``truth`` (N, C),
    ``groups`` (N,) and ``weights`` (N,), each optional; a Parquet file columns of these names (or ``label``, ``id``,
    ``group``, ``weight``), a sample a row, in which ``logits``, ``counts`` and ``truth`` are lists of C numbers; an
    ``.npy`` file is logits alone.

    Labels that are written as text are read as numbers.

    Raises:
        InputError: the file cannot be read, is damaged, holds nothing of these, one of them twice or Python objects, a
            row of a list column has another length, or a label is no number; or Parquet without pyarrow.
    """
    if path.suffix == ".npy":
        return Table(logits=read_array(path))
    with blamed_on(path):
        if path.suffix == ".parquet":
            parquet = Parquet(path)
            names = parquet.names
            found = parquet.arrays([name for name in names if name in _WANTED]) if _WANTED & {*names} else {}
        else:
            found = read_npz(path)
            names = list(found)
        for aliases in _NAMES.values():
            if len(given := [f"'{name}'" for name in aliases if name in found]) > 1:
                raise InputError(f"there are {' and '.join(given)}; leave one, or rename the others")
        known = {key: found[name] for key, aliases in _NAMES.items() for name in aliases if name in found}
        if "labels" in known:
            known["labels"] = _class_indices(known["labels"])
        if not known:
            raise InputError(
                "there is no 'logits', 'labels', 'ids', 'counts' or 'truth', only "
                f"{', '.join(sorted(names)) or 'nothing'}; rename what is meant"
            )
    return Table(**known)


def _class_indices(labels: np.ndarray) -> np.ndarray:
    """One a row; numbers that are written as text, or in decimals, as numbers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "USO":
        return labels
    read = []
    for row, value in enumerate(labels.tolist()):
        with blamed_on(f"row {row}"):
            label = label_of(value)
            if isinstance(label, str):
                raise InputError(f"the label is '{label}'; number the classes as the columns of logits, from 0")
            read.append(label)
    return np.array(read)


def read_array(path: Path) -> np.ndarray:
    """The array in an ``.npy`` file.

    Raises:
        InputError: the file cannot be read, is damaged, or holds Python objects or several arrays.
    """
    with blamed_on(path):
        return read_npy(path)
