"""Arrays that others have written: NumPy's ``.npz`` and ``.npy`` files, and Parquet. Nothing is unpickled.

Errors name no file: whoever reads one puts its name in front (`preceptor.data.files.blamed_on`).
"""

import importlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.errors import InputError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, in the machine's byte order.

    Raises:
        InputError: the file cannot be read, is damaged, a single array, or holds Python objects.
    """
    found = _load(path, ".npz")
    if isinstance(found, np.ndarray):
        raise InputError("this is a single array (.npy); save named arrays with numpy.savez")
    return found


def read_npy(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, in the machine's byte order.

    Raises:
        InputError: the file cannot be read, is damaged, or holds Python objects or several arrays.
    """
    found = _load(path, ".npy")
    if not isinstance(found, np.ndarray):
        raise InputError("the file holds several arrays; give a .npy file, which holds one")
    return found


def _load(path: Path, kind: str) -> np.ndarray | dict[str, np.ndarray]:
    what, arrays = "the file", {}
    try:
        with open(path, "rb") as opened:  # numpy leaves it open where it is no zip file
            found: Any = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return _native(found)
            refuse_repeated(found.files)
            for name in found.files:
                what = f"the array '{name}'"
                arrays[name] = _native(found[name])
            return arrays
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror or error}); give a {kind} file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy's own words would advise to unpickle.
        if "Object arrays" in str(error):
            raise InputError(
                f"{what} holds Python objects, which would have to be unpickled; save numbers, or strings of one "
                "length (dtype 'U')"
            ) from None
        raise InputError(f"the file is truncated, damaged or no {kind} file; write it again") from None


def _native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, which is the only one that torch takes; bytes that are UTF-8 as text."""
    if array.dtype.kind == "S":
        with suppress(UnicodeDecodeError):
            return np.char.decode(array, "utf-8")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def refuse_repeated(names: Sequence[str]) -> None:
    """Refuse two columns, or keys, of one name: which of them is meant nobody can tell.

    Raises:
        InputError: naming it.
    """
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated is not None:
        raise InputError(f"'{repeated}' is there {names.count(repeated)} times; leave one, or rename the others")


@contextmanager
def _blamed_on_parquet() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"the file cannot be read as Parquet ({' '.join(str(error).split())})") from None


class Parquet:
    """A Parquet file, from its path or its content.

    Raises:
        InputError: pyarrow is missing, or the file cannot be read.
    """

    def __init__(self, source: Path | bytes) -> None:
        try:
            pyarrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise InputError("Parquet files need pyarrow; run pip install 'preceptor[parquet]'") from None
        with _blamed_on_parquet():
            self._file: Any = parquet.ParquetFile(pyarrow.BufferReader(source) if isinstance(source, bytes) else source)
            self.names: list[str] = self._file.schema_arrow.names
            told: dict[bytes, bytes] = self._file.schema_arrow.metadata or {}
            self.metadata: dict[str, str] = {
                key.decode(errors="replace"): value.decode(errors="replace") for key, value in told.items()
            }
        refuse_repeated(self.names)

    def rows(self) -> list[dict[str, Any]]:
        """Each row by column."""
        with _blamed_on_parquet():
            return self._file.read(use_threads=False).to_pylist()

    def arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns as arrays (N,), and columns of lists as (N, C).

        Raises:
            InputError: no rows, a cell that is empty, or lists of unlike lengths.
        """
        with _blamed_on_parquet():
            table: Any = self._file.read(columns=list(names), use_threads=False)
            if not len(table):
                raise InputError("the file has no rows; give one for each sample")
            return {name: _array(table[name].combine_chunks(), name) for name in names}


def _array(column: Any, name: str) -> np.ndarray:
    column = getattr(column, "storage", column)  # Arrow's and Ray's tensors are lists with a shape
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"the column '{name}' is empty in row {row}; drop such rows or fill them in")
    if str(column.type).endswith("binary"):
        with suppress(ValueError):  # no UTF-8: then bytes are what it holds
            column = column.cast("string")
    if not hasattr(column, "value_lengths"):
        return column.to_numpy(zero_copy_only=False)
    lengths = np.asarray(column.value_lengths())
    if (lengths != lengths[:1]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise InputError(
            f"the column '{name}' has {lengths[row]} numbers in row {row} and {lengths[0]} in row 0; give one for each "
            "class in every row"
        )
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), -1)
