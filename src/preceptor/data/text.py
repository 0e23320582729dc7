"""Texts with labels, or with the counts of what several raters chose, from JSON lines, CSV or Parquet."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.data.class_names import as_names
from preceptor.data.dataset import ArrayDataset, Data, shortened
from preceptor.data.files import blamed_on
from preceptor.data.row_labels import label_of, numbered_labels, say_blanks
from preceptor.data.rows import Cells, cell, read_rows
from preceptor.errors import InputError


class TextDataset(ArrayDataset):
    """Sentences as rows of UTF-8 bytes, uint8 (N, L), zero-padded; labels (N,); the counts that these were drawn from.

    `counts` is int64 (N, C): how many raters chose each class; None where the file has labels.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        counts: Tensor | None,
        num_classes: int,
        ids: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(inputs, labels, num_classes=num_classes, ids=ids)
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

    Labels are class numbers or class names, of one kind in all rows: "1", "1.0" and 1 are one number, and blanks round
    a label are left out, which is noted. With `counts_column`, a list of how many raters chose each class (in CSV
    written as JSON), the label is what one of these raters said, picked at random: it is distributed as the raters'
    opinions are. The counts stay at hand as `data.train.counts`. A column `id` identifies the rows to stored outputs.

    Args:
        path: the file.
        text_column: name of the texts' column.
        label_column: name of the labels' column; not read with `counts_column`.
        counts_column: name of the counts' column.
        groups: for each class the positions (from 0) in the counts that are added up; each position goes into one
            class. Nine ratings from -4 to 4 as five classes: [[0, 1], [2, 3], [4], [5, 6], [7, 8]].
        class_names: of the classes, in their order; otherwise those that the training rows have: "0", "1", ... up to
            the largest, or the labels' names in sorted order. Where none of them is a number, labels may be their
            places, from 0.
        where: keep only rows with these values, as {column: value}.
        test_path: a file of the same form with the test set.
        test_where: keep only test rows with these values; without `test_path` they are rows of `path`.
        max_bytes: the longest text that is kept whole.
        draw_seed: of the raters' draws.

    Raises:
        InputError: a file that cannot be read or is damaged; and, with the row (from 1, the header of a CSV file not
            counted), a missing column or one that is there twice, a header that is repeated, a text that is empty, a
            label that is missing or no class, numbers among names, a test row's label that no training row has (and
            `class_names` do not tell), counts that are no counts.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "films.jsonl"
    >>> _ = file.write_text('{"text": "so good", "label": "pos"}\\n{"text": "meh", "label": "neg"}\\n')
    >>> data = text(path=file)
    >>> data.class_names, data.input_shape, data.train[1]
    (('neg', 'pos'), (7,), (tensor([109, 101, 104,   0,   0,   0,   0], dtype=torch.uint8), tensor(0)))
    """
    if max_bytes < 1:
        raise InputError(f"max_bytes is {max_bytes}; give at least 1")
    if not isinstance(draw_seed, int):
        raise InputError(f"draw_seed is {draw_seed!r}; give a whole number")
    columns = text_column, label_column if counts_column is None else counts_column
    parse = label_of if counts_column is None else _counts
    parts = [_part(path, where, *columns, parse, max_bytes)]
    if test_path is not None or test_where is not None:
        parts.append(_part(path if test_path is None else test_path, test_where, *columns, parse, max_bytes))
    if counts_column is None:
        if groups is not None:
            raise InputError("groups are given without counts; say in counts_column which column holds the counts")
        names, targets = numbered_labels(parts, class_names)
        counts: list[Tensor | None] = [None] * len(parts)
    else:
        counts = [_grouped(part, parts[0], groups) for part in parts]  # type: ignore[assignment]
        names = _names_of_counts(counts[0], class_names)  # type: ignore[arg-type]
        targets = [_drawn(each, 2 * draw_seed + i) for i, each in enumerate(counts)]  # type: ignore[arg-type]
    length = max(len(row) for part in parts for row in part.texts)
    sets = [
        TextDataset(padded(part.texts, length), labels, each, len(names), part.ids or None)
        for part, labels, each in zip(parts, targets, counts, strict=True)
    ]
    preprocessing: dict[str, Any] = {"text": "UTF-8 bytes, zero-padded", "max_bytes": max_bytes}
    return Data(sets[0], sets[1] if len(sets) == 2 else None, names, preprocessing)


@dataclass(frozen=True)
class _Part(Cells):
    """The rows of one set: their labels or counts, their texts in bytes, and their ids where all have one."""

    texts: list[bytes]
    ids: list[Any]


def _part(
    path: str | Path,
    where: Mapping[str, Any] | None,
    text_column: str,
    value_column: str,
    parse: Callable[[Any], Any],
    max_bytes: int,
) -> _Part:
    path = Path(path).expanduser()
    rows = read_rows(path, where or {})
    named = all(row.get("id") is not None for _, row in rows)
    part = _Part(path, [], [], [], [row["id"] for _, row in rows] if named else [])
    with blamed_on(path):
        for number, row in rows:
            with blamed_on(f"row {number}"):
                part.numbers.append(number)
                part.texts.append(text_bytes(cell(row, text_column), max_bytes))
                part.values.append(parse(cell(row, value_column)))
    if parse is label_of:
        say_blanks(Cells(path, part.numbers, [row[value_column] for _, row in rows]))
    return part


# -- what is in them -----------------------------------------------------------------------------------------


def text_bytes(value: Any, max_bytes: int) -> bytes:
    """A text as UTF-8, cut at `max_bytes` between two characters.

    Raises:
        InputError: it is no text, empty, or holds what cannot be kept.
    """
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


def _counts(value: Any) -> list[int]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f"the counts are '{value}'; write them as a list, [0, 3, 1]") from None
    if not isinstance(value, list) or not all(map(_is_count, value)) or sum(value) == 0:
        raise InputError(f"the counts are {value!r}; give a list of whole numbers of raters, at least one rater in all")
    return [int(number) for number in value]


def _is_count(number: Any) -> bool:
    whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    return whole and not isinstance(number, bool) and 0 <= number < 2**31


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
    lists = isinstance(groups, Sequence) and all(isinstance(group, Sequence) and group for group in groups)
    if not lists or sorted(map(str, chain(*groups))) != sorted(map(str, range(length))):
        raise InputError(
            f"groups is {groups!r}; put each of the positions 0 to {length - 1} of the counts into one group"
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
    return as_names(class_names)


def _drawn(counts: Tensor, seed: int) -> Tensor:
    """What one rater of each row said, all raters being equally likely."""
    share = torch.rand(len(counts), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rater = (share * counts.sum(1, keepdim=True)).long()
    return (counts.cumsum(1) <= rater).sum(1)


def padded(texts: list[bytes], length: int) -> Tensor:
    """Texts as rows of bytes, uint8 (N, length), with zeros behind them."""
    return torch.from_numpy(np.frombuffer(b"".join(t.ljust(length, b"\0") for t in texts), np.uint8).copy()).view(
        -1, length
    )
