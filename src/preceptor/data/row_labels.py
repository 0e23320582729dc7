"""Labels as they stand in files: numbers however they are written, or names; of one kind in every part."""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from preceptor.data.class_names import MOST_CLASSES, as_names, numbered
from preceptor.data.files import blamed_on
from preceptor.data.rows import Cells
from preceptor.errors import InputError, did_you_mean
from preceptor.notices import note

Label = int | str

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,2})?")
# How pandas and others write that there is nothing.
_MISSING = {"", "nan", "<na>", "#n/a"}


def label_of(value: Any) -> Label:
    """A cell's label: a number where it is a whole one, as text or not; else a name, without blanks round it.

    Raises:
        InputError: it is missing, a fraction, or neither a number nor text.

    >>> label_of(1), label_of("1.0"), label_of(" 1"), label_of(1.0), label_of(" neg"), label_of(b"neg")
    (1, 1, 1, 1, 'neg', 'neg')
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        value = value.strip()
    if value is None or value != value or (isinstance(value, str) and value.lower() in _MISSING):
        shown = "there is no label" if value is None or value == "" else f"the label is {value!r}"
        raise InputError(f"{shown}; labels are class numbers or class names")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise InputError(f"the label is {value!r}; labels are class numbers or class names")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return value
    number = Decimal(value)
    if not number.is_finite() or number != number.to_integral_value():
        raise InputError(f"the label is {value}; labels are whole class numbers or class names")
    return int(number)


def numbered_labels(parts: Sequence[Cells], class_names: Sequence[str] | None) -> tuple[tuple[str, ...], list[Tensor]]:
    """The classes' names, and each part's labels as numbers int64 (n,).

    Args:
        parts: the training rows first.
        class_names: in their order. Labels are these names, or where none of them is a number their places from 0.
            Without them the training rows have all classes: numbers up to the largest, or their names, sorted.

    Raises:
        InputError: with its row and file, a label that is no class; numbers among names; a label that no training row
            has, where no names are given.
    """
    if class_names is None:
        _refuse_mixed(parts)
        _refuse_unseen(parts)
        names, place = _of_training(parts[0])
    else:
        names = tuple(name.strip() for name in as_names(class_names))
        place: dict[Label, int] = _of_names(names)
        labels = {label for part in parts for label in part.values}
        if not any(isinstance(label, int) for label in place) and all(isinstance(label, int) for label in labels):
            place = {label: label for label in range(len(names))}
        _refuse_unknown(parts, place, names)
    return names, [torch.tensor([place[label] for label in part.values]) for part in parts]


def say_blanks(cells: Cells) -> None:
    """Note the labels that have blanks round them, which are left out."""
    padded = [place for place, each in enumerate(cells.values) if isinstance(each, str) and each != each.strip()]
    if padded:
        note(
            f"{cells.path}: the blanks round {len(padded)} labels are left out (the first: row "
            f"{cells.numbers[padded[0]]}, {cells.values[padded[0]]!r})"
        )


def _of_names(names: tuple[str, ...]) -> dict[Label, int]:
    place: dict[Label, int] = {}
    for label, name in enumerate(names):
        try:
            key = label_of(name)
        except InputError as error:
            raise InputError(f"class_names: {error}") from None
        if place.setdefault(key, label) != label:
            raise InputError(
                f"class_names: '{names[place[key]]}' and '{name}' are one class; give each a name of its own"
            )
    return place


def _of_training(part: Cells) -> tuple[tuple[str, ...], dict[Label, int]]:
    labels = set(part.values)
    if isinstance(part.values[0], str):
        names = tuple(sorted(labels))  # type: ignore[type-var]
        _say_alike(part.path, names)
        return names, {name: label for label, name in enumerate(names)}
    for position, label in enumerate(part.values):
        if not 0 <= label < MOST_CLASSES:  # type: ignore[operator]
            raise part.refuse(
                position, f"the label is {label}; class numbers are whole numbers from 0 to {MOST_CLASSES - 1}"
            )
    with blamed_on(part.path):
        names = numbered(torch.tensor(part.values), remedy="256 class names")
    return names, {label: label for label in range(len(names))}


def _refuse_mixed(parts: Sequence[Cells]) -> None:
    first = parts[0].values[0]
    kind = type(first)
    for part in parts:
        for position, label in enumerate(part.values):
            if type(label) is not kind:
                there = f"row {parts[0].numbers[0]}" + ("" if part is parts[0] else f" of {parts[0].path}")
                raise part.refuse(
                    position,
                    f"the label is the {_kind(label)} {_shown(label)}, and that of {there} the {_kind(first)} "
                    f"{_shown(first)}; give one kind, or class_names",
                )


def _refuse_unseen(parts: Sequence[Cells]) -> None:
    seen = set(parts[0].values)
    for part in parts[1:]:
        for position, label in enumerate(part.values):
            if label not in seen:
                raise part.refuse(
                    position,
                    f"the label is {_shown(label)}, which no training row of {parts[0].path} has; mend it, or give all "
                    "classes in class_names",
                )


def _refuse_unknown(parts: Sequence[Cells], place: dict[Label, int], names: tuple[str, ...]) -> None:
    for part in parts:
        for position, label in enumerate(part.values):
            if label in place:
                continue
            if place.keys() == set(range(len(names))):
                wanted = f"with {len(names)} classes labels are numbers from 0 to {len(names) - 1}"
                raise part.refuse(position, f"the label is {_shown(label)}; {wanted}")
            raise part.refuse(
                position, f"the label is {_shown(label)}, which is no class; {did_you_mean(str(label), names)}"
            )


def _kind(label: Label) -> str:
    return "name" if isinstance(label, str) else "number"


def _shown(label: Label) -> str:
    return f"'{label}'" if isinstance(label, str) else str(label)


def _say_alike(path: object, names: Sequence[str]) -> None:
    """Note two names that look the same, such as 'Yes' and 'yes'."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            note(f"{path}: the labels '{other}' and '{name}' are two classes, though they differ in spelling only")
