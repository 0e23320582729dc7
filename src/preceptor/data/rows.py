"""The rows of a file that others have written: JSON lines, CSV or Parquet. A row is a mapping from column to cell."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.data.arrays import Parquet, refuse_repeated
from preceptor.data.files import blamed_on, read_bytes
from preceptor.errors import InputError, did_you_mean

Row = Mapping[str, Any]

_LONGEST = 2**31 - 1  # characters of a cell, in place of the 131,072 that Python's csv module reads


@dataclass(frozen=True)
class Cells:
    """What some rows have in a column, as it was found or read, with the file and the rows where it stands."""

    path: Path
    numbers: list[int]
    values: list[Any]

    def refuse(self, position: int, sentence: str) -> InputError:
        """An error that names the row of the value at `position`."""
        return InputError(f"{self.path}: row {self.numbers[position]}: {sentence}")


def read_rows(path: Path, where: Mapping[str, Any]) -> list[tuple[int, Row]]:
    """The rows of a file that have the values `where`, with their numbers: from 1, a CSV file's header not counted.

    Args:
        path: of a `.jsonl` or `.csv` file (also with `.gz` after it), or a `.parquet` file.
        where: by column; compared as text, which is all that CSV knows.

    Raises:
        InputError: another kind of file, one that cannot be read or is damaged, a column that is there twice or that
            is not there, a row that repeats the header, or no row.
    """
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
    if kind not in _READERS:
        known = ".jsonl, .csv (also with .gz after it) or .parquet"
        raise InputError(f"{path}: the name ends in '{kind}'; give a file that ends in {known}")
    if not isinstance(where, Mapping):
        raise InputError(f"the condition (where) is {where!r}; give {{column: value}}")
    content = read_bytes(path)
    with blamed_on(path):
        return _matching(list(_READERS[kind](content)), where)


def cell(row: Row, column: str) -> Any:
    """What a row has in a column.

    Raises:
        InputError: there is no such column.
    """
    if column not in row:
        raise InputError(f"there is no column '{column}'; {did_you_mean(column, map(str, row))}")
    return row[column]


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _json_lines(content: bytes) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_utf8(content).split("\n"), 1):  # not splitlines: JSON may hold other line separators
        if not line.strip():
            continue
        try:
            with blamed_on(f"row {number}"):
                row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"row {number} is not valid JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f'row {number} is a {type(row).__name__}; write one object a line, {{"text": ...}}')
        yield number, row


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    refuse_repeated([name for name, _ in pairs])
    return dict(pairs)


def _csv(content: bytes) -> Iterator[tuple[int, Row]]:
    number, most = 0, csv.field_size_limit(_LONGEST)
    try:
        lines = filter(None, csv.reader(io.StringIO(_utf8(content), newline=""), strict=True))  # no empty ones
        header = [name.strip() for name in next(lines, [])]
        refuse_repeated([name for name in header if name])
        for number, cells in enumerate(lines, 1):
            if len(cells) != len(header):
                raise InputError(f"row {number} has {len(cells)} cells, the header {len(header)}; quote commas")
            if [each.strip() for each in cells] == header:
                raise InputError(f"row {number} repeats the header; leave it out")
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"row {number + 1} is not valid CSV ({error}); mend its quotes") from None
    finally:
        csv.field_size_limit(most)


def _parquet(content: bytes) -> Iterator[tuple[int, Row]]:
    return enumerate(Parquet(content).rows(), 1)


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _matching(rows: list[tuple[int, Row]], where: Mapping[str, Any]) -> list[tuple[int, Row]]:
    for column, value in where.items():
        found = []
        for number, row in rows:
            with blamed_on(f"row {number}"):
                found.append(_as_text(cell(row, column)))
        kept = [row for row, each in zip(rows, found, strict=True) if each == _as_text(value)]
        if not kept:
            raise InputError(f"no row has the {column} '{value}'; {did_you_mean(str(value), set(found))}")
        rows = kept
    if not rows:
        raise InputError("the file holds no rows; at least one is needed")
    return rows


def _as_text(value: Any) -> str:
    """As CSV would hold it: 1.0 of a column of floats is 1, and blanks round it say nothing."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
