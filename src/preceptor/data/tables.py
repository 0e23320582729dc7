"""Predictions and labels that others have written, in ``.npz``, ``.npy`` and Parquet files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.data.arrays import Parquet, read_npy, read_npz
from preceptor.data.class_names import as_names
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
    "class_names": ("class_names",),
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
    class_names: tuple[str, ...] | None = None
    """What the columns of `logits` are called, `C` names."""


def read_table(path: Path) -> Table:
    """Read a file of samples.

    An ``.npz`` file holds arrays ``logits`` (N, C), ``labels`` (N,), ``ids`` (N,), ``counts`` (N, C), ``truth`` (N, C),
    ``groups`` (N,) and ``weights`` (N,), each optional; a Parquet file columns of these names (or ``label``, ``id``,
    ``group``, ``weight``), a sample a row, in which ``logits``, ``counts`` and ``truth`` are lists of C numbers; an
    ``.npy`` file is logits alone. ``class_names`` (C,) are an array of the ``.npz`` file, and a list in JSON among the
    metadata of a Parquet file.

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
            wanted = _WANTED - {"class_names"}
            found: dict[str, Any] = parquet.arrays([n for n in names if n in wanted]) if wanted & {*names} else {}
            if "class_names" in parquet.metadata:
                found["class_names"] = _json(parquet.metadata["class_names"])
        else:
            found = read_npz(path)
            names = list(found)
        for aliases in _NAMES.values():
            if len(given := [f"'{name}'" for name in aliases if name in found]) > 1:
                raise InputError(f"there are {' and '.join(given)}; leave one, or rename the others")
        known: dict[str, Any] = {
            key: found[name] for key, aliases in _NAMES.items() for name in aliases if name in found
        }
        if "labels" in known:
            known["labels"] = _class_indices(known["labels"])
        if "class_names" in known:
            known["class_names"] = as_names(known["class_names"])
        if not known:
            raise InputError(
                "there is no 'logits', 'labels', 'ids', 'counts' or 'truth', only "
                f"{', '.join(sorted(names)) or 'nothing'}; rename what is meant"
            )
    return Table(**known)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InputError("the metadata 'class_names' are no JSON; write a list of names") from None


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
