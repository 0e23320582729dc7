"""A sum of losses that are handed over: names, mappings and objects in one list, each perhaps with a weight."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from preceptor.errors import InputError, is_number
from preceptor.losses.features.base import FeatureLoss
from preceptor.recipe.published import published_of
from preceptor.schema import SUM, Component, parts_of

Parts: TypeAlias = list[tuple[Any, float | None]]
"""The losses of a sum, components or objects, and their weights where somebody gives them."""

_NAMED = str | Mapping | Component


def parts_given(loss: Any) -> Parts | None:
    """The parts of a list with objects in it; None of anything else, a list of names among it.

    Raises:
        InputError: a weight that is none; a name or mapping that is no part of a sum.

    >>> from preceptor.losses import kd
    >>> parts_given(["wttm", (kd, 0.5)])[1][1], parts_given(["wttm", "kd"])
    (0.5, None)
    """
    if not isinstance(loss, list | tuple) or all(isinstance(each, _NAMED) for each in loss):
        return None
    return [_part(each) for each in loss]


def _part(given: Any) -> tuple[Any, float | None]:
    thing, weight = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if weight is not None and not (is_number(weight) and 0 <= float(weight) < float("inf")):
        raise InputError(
            f"the weight of {thing!r} in a sum is {weight!r}; give a number of at least 0", argument="loss"
        )
    if not isinstance(thing, _NAMED):
        return thing, None if weight is None else float(weight)
    named = thing.model_dump() if isinstance(thing, Component) else thing
    [(component, said)] = parts_of(Component.model_validate({"name": SUM, "parts": [named]}))
    return component, said if weight is None else float(weight)


def weight_of(thing: Any, student: str) -> float:
    """The weight of a part where nobody gives one: as published, else 1."""
    if isinstance(thing, FeatureLoss):
        return thing.weights(student)["distill_weight"]
    published = published_of(thing.name, student) if isinstance(thing, Component) else None
    return 1.0 if published is None else published["distill_weight"]


def refuse_twice(parts: Sequence[str]) -> None:
    """Refuse a loss that is twice in a sum, by the names of its parts.

    Raises:
        InputError: naming it.
    """
    twice = next((name for name in parts if parts.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the sum has '{twice}' twice; give it once, with the weight of both")
