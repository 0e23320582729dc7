"""Texts with labels, or with the counts of what several raters chose, from JSON lines, CSV or Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.data.arrays import Parquet
from preceptor.data.dataset import ArrayDataset, Data, shortened
from preceptor.data.files import blamed_on, read_bytes
from preceptor.errors import InputError, did_you_mean

Row = Mapping[str, Any]


class TextDataset(ArrayDataset):
    """Sentences as rows of UTF-8 bytes, uint8 (N, L), zero-padded; labels (N,); the counts that these were drawn from.

    `counts` is int64 (N, C): how many raters chose each class; None where the file has labels.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, counts: Tensor | None, num_classes: int) -> None:
        super().__init__(inputs, labels, num_classes=num_classes)
        self.counts: Tensor | None = counts


def text(
    *,
    path: str | Path,
    text_column: str = "text",
    label_column: str = "label",
    counts_column: str | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    test_path: str | Path | None = None,
    test_where: Mapping[str, Any] | None = None,
    max_bytes: int = 512,
    draw_seed: int = 0,
) -> Data:
    """The texts of a file: `.jsonl` or `.csv` (also with `.gz` after it), or `.parquet` (which needs pyarrow).

    An input is one row of UTF-8 bytes, uint8 (L,), with zeros after the text; L is the same for all. Every text model
    reads such rows, teachers and students alike. Longer texts are cut at `max_bytes`, between two characters.

    Labels are class numbers (whole numbers, or text that reads as such) or class names. With `counts_column`, a list
    of how many raters chose each class (in CSV written as JSON), the label is what one of these raters said, picked at
    random: it is distributed as the raters' opinions are. The counts stay at hand as `data.train.counts`.

    Args:
        path: the file.
        text_column: name of the texts' column.
        label_column: name of the labels' column; not read with `counts_column`.
        counts_column: name of the counts' column.
        groups: for each class the positions (from 0) in the counts that are added up; each position goes into one
            class. Nine ratings from -4 to 4 as five classes: [[0, 1], [2, 3], [4], [5, 6], [7, 8]].
        class_names: of the classes, in their order; otherwise "0", "1", ... or the labels' names in sorted order.
        where: keep only rows with these values, as {column: value}.
        test_path: a file of the same form with the test set.
        test_where: keep only test rows with these values; without `test_path` they are rows of `path`.
        max_bytes: the longest text that is kept whole.
        draw_seed: of the raters' draws.

    Raises:
        InputError: a file that cannot be read or is damaged; and, with the row (from 1, the header of a CSV file not
            counted), a missing column, a text that is empty, a label that is no class, counts that are no counts.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "films.jsonl"
    >>> _ = file.write_text('{"text": "so good", "label": "pos"}\\n{"text": "meh", "label": "neg"}\\n')
    >>> data = text(path=file)
    >>> data.class_names, data.input_shape, data.train[1]
    (('neg', 'pos'), (7,), (tensor([109, 101, 104,   0,   0,   0,   0], dtype=torch.uint8), tensor(0)))
    """
    if max_bytes < 1:
        raise InputError(f"max_bytes is {max_bytes}; give at least 1")
    columns = text_column, label_column if counts_column is None else counts_column
    parse = _labels if counts_column is None else _counts
    parts = [_part(path, where, *columns, parse, max_bytes)]
    if test_path is not None or test_where is not None:
        parts.append(_part(path if test_path is None else test_path, test_where, *columns, parse, max_bytes))
    if counts_column is None:
        if groups is not None:
            raise InputError("groups are given without counts; say in counts_column which column holds the counts")
        names, targets = _numbered(parts, class_names)
        counts: list[Tensor | None] = [None] * len(parts)
    else:
        counts = [_grouped(part, parts[0], groups) for part in parts]  # type: ignore[assignment]
        names = _names_of_counts(counts[0], class_names)  # type: ignore[arg-type]
        targets = [_drawn(each, 2 * draw_seed + i) for i, each in enumerate(counts)]  # type: ignore[arg-type]
    length = max(len(row) for part in parts for row in part.texts)
    sets = [
        TextDataset(_padded(part.texts, length), labels, each, len(names))
        for part, labels, each in zip(parts, targets, counts, strict=True)
    ]
    preprocessing: dict[str, Any] = {"text": "UTF-8 bytes, zero-padded", "max_bytes": max_bytes}
    return Data(sets[0], sets[1] if len(sets) == 2 else None, names, preprocessing)


@dataclass(frozen=True)
class _Part:
    """The rows of one set: where they stand in their file, their texts in bytes, their labels or counts as found."""

    path: Path
    numbers: list[int]
    texts: list[bytes]
    values: list[Any]

    def refuse(self, position: int, sentence: str) -> InputError:
        return InputError(f"{self.path}: row {self.numbers[position]}: {sentence}")


def _part(
    path: str | Path,
    where: Mapping[str, Any] | None,
    text_column: str,
    value_column: str,
    parse: Callable[[Any], Any],
    max_bytes: int,
) -> _Part:
    path = Path(path).expanduser()
    part = _Part(path, [], [], [])
    rows = _rows(path)
    with blamed_on(path):
        for number, row in _matching(rows, where or {}):
            with _blamed_on_row(number):
                part.numbers.append(number)
                part.texts.append(_bytes(_cell(row, text_column), max_bytes))
                part.values.append(parse(_cell(row, value_column)))
    return part


@contextmanager
def _blamed_on_row(number: int) -> Iterator[None]:
    """Put the row's number in front of an error sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(f"row {number}: {error}") from error


# -- rows of a file ------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[tuple[int, Row]]:
    """The rows of a file with their numbers, from 1."""
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
    if kind not in _READERS:
        known = ".jsonl, .csv (also with .gz after it) or .parquet"
        raise InputError(f"{path}: the name ends in '{kind}'; give a file that ends in {known}")
    content = read_bytes(path)
    with blamed_on(path):
        return list(_READERS[kind](content))


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
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"row {number} is not valid JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f'row {number} is a {type(row).__name__}; write one object a line, {{"text": ...}}')
        yield number, row


def _csv(content: bytes) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(_utf8(content), newline=""), strict=True)
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                cells = sum(value is not None for name, value in row.items() if name is not None) + len(
                    row.get(None, ())
                )  # type: ignore[call-overload]
                raise InputError(
                    f"row {number} has {cells} cells, the header {len(reader.fieldnames or ())}; quote commas"
                )
            yield number, row
    except csv.Error as error:
        raise InputError(f"row {number + 1} is not valid CSV ({error}); mend its quotes") from None


def _parquet(content: bytes) -> Iterator[tuple[int, Row]]:
    return enumerate(Parquet(content).rows(), 1)


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}


def _matching(rows: list[tuple[int, Row]], where: Mapping[str, Any]) -> list[tuple[int, Row]]:
    """The rows that have the wanted values; compared as text, which is all that CSV knows."""
    for column, value in where.items():
        values = {str(_cell(row, column, number)) for number, row in rows}
        rows = [(number, row) for number, row in rows if str(row[column]) == str(value)]
        if not rows:
            raise InputError(f"no row has the {column} '{value}'; {did_you_mean(str(value), values)}")
    if not rows:
        raise InputError("the file holds no rows; at least one is needed")
    return rows


def _cell(row: Row, column: str, number: int | None = None) -> Any:
    if column not in row:
        where = "" if number is None else f"row {number}: "
        raise InputError(f"{where}there is no column '{column}'; {did_you_mean(column, map(str, row))}")
    return row[column]


# -- what is in them -----------------------------------------------------------------------------------------


def _bytes(value: Any, max_bytes: int) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"the text is a {type(value).__name__}, not text; leave such rows out")
    if not value.strip():
        raise InputError("the text is empty; leave such rows out")
    if "\0" in value:
        raise InputError("the text holds the character U+0000, which marks the end of a text here; remove it")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text holds {value[error.start]!r}, half a character; remove it") from None
    # Only the last character can be incomplete.
    return encoded if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore").encode()


def _labels(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        found = "there is no label" if value is None or value == "" else f"the label is {value!r}"
        raise InputError(f"{found}; labels are class numbers or class names")
    return value


def _counts(value: Any) -> list[int]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f"the counts are '{value}'; write them as a list, [0, 3, 1]") from None
    whole = isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    if not whole or min(value, default=0) < 0 or sum(value) == 0:
        raise InputError(f"the counts are {value!r}; give a list of whole numbers of raters, at least one rater in all")
    return value


def _numbered(parts: list[_Part], class_names: Sequence[str] | None) -> tuple[tuple[str, ...], list[Tensor]]:
    """The classes' names, and each part's labels as numbers."""
    texts = {value for part in parts for value in part.values if isinstance(value, str)}
    known = None if class_names is None else tuple(map(str, class_names))
    named = texts and not all(value.strip().lstrip("-").isdecimal() for value in texts)
    if named or (texts and known is not None and texts <= set(known)):
        return _named(parts, known or tuple(sorted(texts)))
    numbers = [torch.tensor([int(value) for value in part.values]) for part in parts]
    names = known or tuple(str(label) for label in range(max(int(labels.max()) for labels in numbers) + 1))
    for part, labels in zip(parts, numbers, strict=True):
        for position in ((labels < 0) | (labels >= len(names))).nonzero()[:1].flatten().tolist():
            wanted = f"with {len(names)} classes labels are numbers from 0 to {len(names) - 1}"
            raise part.refuse(position, f"the label is {int(labels[position])}; {wanted}")
    return names, numbers


def _named(parts: list[_Part], names: tuple[str, ...]) -> tuple[tuple[str, ...], list[Tensor]]:
    number = {name: label for label, name in enumerate(names)}
    for part in parts:
        for position, value in enumerate(part.values):
            if not isinstance(value, str):
                raise part.refuse(position, f"the label is the number {value} where others are names; give one kind")
            if value not in number:
                raise part.refuse(position, f"the label '{value}' is no class; {did_you_mean(value, names)}")
    return names, [torch.tensor([number[value] for value in part.values]) for part in parts]


def _grouped(part: _Part, first: _Part, groups: Sequence[Sequence[int]] | None) -> Tensor:
    """The counts of a part as int64 (N, C), columns added up as `groups` say."""
    length = len(first.values[0])
    for position, row in enumerate(part.values):
        if len(row) != length:
            wanted = f"in row {first.numbers[0]}" + ("" if part is first else f" of {first.path}")
            raise part.refuse(position, f"there are {len(row)} counts, but {length} {wanted}; give one for each class")
    counts = torch.tensor(part.values, dtype=torch.int64)
    if groups is None:
        return counts
    if sorted(column for group in groups for column in group) != list(range(length)) or not all(groups):
        raise InputError(
            f"groups is {[list(group) for group in groups]}; put each of the positions 0 to {length - 1} of the "
            "counts into one group"
        )
    return torch.stack([counts[:, list(group)].sum(1) for group in groups], dim=1)


def _names_of_counts(counts: Tensor, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None:
        return tuple(map(str, range(counts.shape[1])))
    if len(class_names) != counts.shape[1]:
        raise InputError(
            f"class_names has {len(class_names)} names ({shortened(class_names)}) for {counts.shape[1]} classes of "  # type: ignore[arg-type]
            "raters' counts; give one for each"
        )
    return tuple(map(str, class_names))


def _drawn(counts: Tensor, seed: int) -> Tensor:
    """What one rater of each row said, all raters being equally likely."""
    share = torch.rand(len(counts), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rater = (share * counts.sum(1, keepdim=True)).long()
    return (counts.cumsum(1) <= rater).sum(1)


def _padded(texts: list[bytes], length: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(b"".join(t.ljust(length, b"\0") for t in texts), np.uint8).copy()).view(
        -1, length
    )
