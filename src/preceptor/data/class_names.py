"""What classes are called: read from any data set, in the order of their labels, and the same in every part."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from preceptor.data.indexed import Indexed
from preceptor.data.labelled import stored_labels
from preceptor.data.streams import unmodified
from preceptor.errors import InputError
from preceptor.notices import note

MOST_CLASSES = 1_000_000  # by numbers alone: a larger one identifies something else


def as_names(given: Any) -> tuple[str, ...]:
    """Class names as text, one a class.

    Args:
        given: the names in the order of the labels (a list, an array, a tensor; text, bytes or numbers), a mapping from
            label to name or from name to label, or the number of classes.

    Raises:
        InputError: something else, a name that two classes share, or more than a million without names.

    >>> as_names(np.array([b"cat", b"dog"])), as_names({"cat": 1, "dog": 0}), as_names(2)
    (('cat', 'dog'), ('dog', 'cat'), ('0', '1'))
    """
    if isinstance(given, Mapping):
        given = _of_mapping(given)
    elif isinstance(given, int | np.integer) and not isinstance(given, bool):
        if given > MOST_CLASSES:
            raise InputError(f"there are {given} classes without names; give at most {MOST_CLASSES}")
        given = range(given)
    elif isinstance(given, Tensor | np.ndarray):
        given = given.reshape(-1).tolist()
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | set | frozenset):
        raise InputError(
            f"the class names are a {type(given).__name__}; give a list of names in the order of the labels"
        )
    names = tuple(map(_text, given))
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if first.setdefault(name, label) != label:
            raise InputError(
                f"the classes {first[name]} and {label} are both called '{name}'; give each a name of its own"
            )
    return names


def _of_mapping(given: Mapping[Any, Any]) -> list[Any]:
    """The names in the order of the labels, which are either the keys or the values."""
    labels = list(range(len(given)))
    for numbers, names in ((given.keys(), given.values()), (given.values(), given.keys())):
        found = dict(zip(numbers, names, strict=True)) if all(isinstance(n, int) for n in numbers) else {}
        if sorted(found) == labels:
            return [found[label] for label in labels]
    raise InputError(
        f"the class names are a mapping that does not number the classes 0 to {len(given) - 1}; give a list"
    )


def _text(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", errors="replace")
    return str(name.item() if isinstance(name, Tensor | np.ndarray) else name)


def names_of(dataset: Any) -> tuple[str, ...] | None:
    """The class names that a data set brings, or None.

    They are its `classes` or `class_names`, the keys of its `class_to_idx`, those of the label among its `features` (of
    the library `datasets`), or those of the sets that `Subset`, `ConcatDataset` and `Indexed` are made of.

    Raises:
        InputError: no names (`as_names`), or parts of one data set that name their classes otherwise.
    """
    for attribute in ("classes", "class_names"):
        given = getattr(dataset, attribute, None)
        if given is None or (hasattr(given, "__len__") and len(given) == 0):
            continue
        if callable(given):
            raise InputError(f"`{attribute}` of the data set is a function; make it the list of its class names")
        names, numbered = as_names(given), _by_number(dataset)
        if numbered is not None and set(numbered) == set(names):
            refuse_difference(names, numbered, f"`{attribute}`", "`class_to_idx`")
        return names
    if (names := _by_number(dataset)) is not None:
        return names
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and hasattr(features.get("label"), "names"):
        return as_names(features["label"].names)
    return _names_below(dataset)


def _by_number(dataset: Any) -> tuple[str, ...] | None:
    """The keys of `class_to_idx`, as torchvision has it, if it numbers each class once."""
    given = getattr(dataset, "class_to_idx", None)
    once = isinstance(given, Mapping) and len(given) > 0 and set(given.values()) == set(range(len(given)))
    return as_names(given) if once else None


def _names_below(dataset: Any) -> tuple[str, ...] | None:
    if isinstance(dataset, Indexed):
        return names_of(dataset.dataset)
    if isinstance(dataset, Subset) and (unmodified(dataset, Subset) or stored_labels(dataset) is not None):
        return names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset) and unmodified(dataset, ConcatDataset):
        known = [(f"part {n} of a data set", names_of(part)) for n, part in enumerate(dataset.datasets)]
        named = [(part, names) for part, names in known if names is not None]
        for part, names in named[1:]:
            refuse_difference(named[0][1], names, named[0][0], part)
        return named[0][1] if named else None
    return None


def refuse_difference(one: tuple[str, ...], other: tuple[str, ...], of_one: str, of_other: str) -> None:
    """Refuse names that differ, in order or as a set, in two parts of the data.

    Raises:
        InputError: naming the first label at which they do.
    """
    if one == other:
        return
    label = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = (f"'{names[label]}'" if label < len(names) else "no class" for names in (one, other))
    raise InputError(
        f"label {label} is {a} in {of_one} and {b} in {of_other} ({len(one)} and {len(other)} classes); number the "
        "classes of both alike, and give both the same names in the same order"
    )


def are_numbers(names: tuple[str, ...]) -> bool:
    """Whether the names only say which label it is: "0", "1", ..."""
    return names == tuple(map(str, range(len(names))))


def numbered(
    labels: Tensor, num_classes: int | None = None, *, remedy: str = "num_classes=256 or 256 class names"
) -> tuple[str, ...]:
    """ "0", "1", ... up to the largest of the labels (N,), for classes without names.

    Args:
        num_classes: how many there are, if that is known.
        remedy: by what the caller's caller says that 255 is a class.

    Raises:
        InputError: 255 as the label of what shall be ignored; a number beyond a million.

    >>> numbered(torch.tensor([1, 0]), 3)
    ('0', '1', '2')
    """
    if num_classes is not None:
        return as_names(num_classes)
    largest = int(labels.max()) if len(labels) else -1
    if largest == 255 and not (labels == 254).any():
        raise InputError(
            f"the label of sample {int((labels == 255).nonzero()[0])} is 255 and none is 254; leave out samples that "
            f"shall be ignored, or give {remedy}"
        )
    if largest >= MOST_CLASSES:
        raise InputError(
            f"the label of sample {int(labels.argmax())} is {largest}, which would make as many classes; number the "
            "classes from 0"
        )
    return tuple(map(str, range(largest + 1)))


def say_what_is_lacking(names: tuple[str, ...], labels: Tensor) -> None:
    """Note the classes of which none of the training labels (N,) is."""
    present = torch.zeros(len(names), dtype=torch.bool)
    present[labels[(labels >= 0) & (labels < len(names))]] = True
    lacking = (~present).nonzero().flatten().tolist()
    if lacking:
        note(
            f"{len(lacking)} of the {len(names)} classes have no training sample (the first: label {lacking[0]}, "
            f"'{names[lacking[0]]}')"
        )
