"""Predictions and labels that others have written: ``.npz``, ``.npy`` and Parquet files. Nothing is unpickled."""

import importlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.errors import InputError

__all__ = ["SUFFIXES", "Table", "read_array", "read_table"]

SUFFIXES = (".npz", ".npy", ".parquet")

# A row of a table is one sample, so that Parquet users think of its column in the singular.
_NAMES = {
    "logits": ("logits",),
    "labels": ("labels", "label"),
    "ids": ("ids", "id"),
    "counts": ("counts",),
    "truth": ("truth",),
}


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


def read_table(path: Path) -> Table:
    """Read a file of samples.

    An ``.npz`` file holds arrays ``logits`` (N, C), ``labels`` (N,), ``ids`` (N,), ``counts`` (N, C), ``truth`` (N, C),
    each optional; a Parquet file columns of these names (or ``label``, ``id``), a sample a row, in which ``logits``,
    ``counts`` and ``truth`` are lists of C numbers; an ``.npy`` file is logits alone.

    Raises:
        InputError: the file cannot be read, is damaged, holds nothing of these or Python objects, or a row of a list
            column has another length; or Parquet without pyarrow.
    """
    if path.suffix == ".npy":
        return Table(logits=read_array(path))
    found = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    known = {key: found[name] for key, names in _NAMES.items() for name in names if name in found}
    if not known:
        raise InputError(
            f"'{path}' has no 'logits', 'labels', 'ids', 'counts' or 'truth'; it holds: {_listed(found)}; "
            "rename what is meant"
        )
    return Table(**known)


def read_array(path: Path) -> np.ndarray:
    """The array in an ``.npy`` file.

    Raises:
        InputError: the file cannot be read, is damaged, or holds Python objects or several arrays.
    """
    found = _load(path)
    if not isinstance(found, np.ndarray):
        raise InputError(f"'{path}' holds several arrays; give a .npy file, which holds one")
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    found = _load(path)
    if isinstance(found, np.ndarray):
        raise InputError(f"'{path}' is a .npy file by another name; call it .npy")
    return found


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an ``.npy`` file, or those of an ``.npz`` file."""
    try:
        with open(path, "rb") as file:
            found: Any = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; give a .npz or .npy file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        if path.suffix not in SUFFIXES:
            raise InputError(f"'{path}' is no file of arrays; give one of {', '.join(SUFFIXES)}") from None
        # NumPy's own words would advise to unpickle.
        raise InputError(
            f"'{path}' is damaged, or holds Python objects, which are not read; save arrays of numbers"
        ) from None


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"reading '{path}' needs pyarrow; run pip install 'preceptor[parquet]'") from None
    wanted = {name for names in _NAMES.values() for name in names}
    try:
        there: list[str] = parquet.read_schema(path).names
        table: Any = parquet.read_table(path, columns=[n for n in there if n in wanted], use_threads=False)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InputError(f"cannot read '{path}' as a Parquet file: {error}; write it again, or give .npz") from None
    if not len(table):
        raise InputError(f"'{path}' has no rows; give one for each sample")
    if not table.column_names:
        return {name: np.empty(0) for name in there}
    return {name: _column(table[name].combine_chunks(), name, path) for name in table.column_names}


def _column(column: Any, name: str, path: Path) -> np.ndarray:
    """A column (N,), or a column of lists as (N, C)."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"the column '{name}' of '{path}' is empty in row {row}; drop such rows or fill them in")
    if not hasattr(column, "value_lengths"):
        return column.to_numpy(zero_copy_only=False)
    lengths = np.asarray(column.value_lengths())
    if (lengths != lengths[:1]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise InputError(
            f"the column '{name}' of '{path}' has {lengths[row]} numbers in row {row} and {lengths[0]} in row 0; "
            "give one for each class in every row"
        )
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), -1)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "nothing"
