"""What a model minimises: one form for a teacher's objective and a student's loss, be it a function or a module.

A criterion says by its signature what it needs and is called with exactly that. A function has no more to it. A module
may have parameters of its own, which are trained, saved and resumed beside the model's and are no part of its weights,
state in buffers, and any of the methods that docs/architecture.md lists, from ``bind`` to ``end_step``.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.names import options_of

VIEWS = ("student_views", "teacher_views", "student_view_features", "teacher_view_features")
"""Of a criterion's own views of the inputs: their axis is the first, the samples' the second."""
OFFERED = ("labels", "index", "student_features", "teacher_features", *VIEWS)
"""What a criterion may ask for beside its first two arguments and ``mask``, by these names."""


@dataclass(frozen=True)
class Criterion:
    """A function or module with its options bound, and what it is called with.

    Args:
        function: gives one value per example (..., B), or a scalar if it is a statement about a batch.
        first: what its positional arguments are: ``logits``, ``teacher_logits``, ``labels``.
        more: what else it asks for, by keyword; `mask` it always gets.
        batch_level: it is a statement about a batch.
        name: what an error calls it.
        masks: ``asked`` if it takes a `mask` and gives 0 where that is False. Else it is shown the examples that count
            alone, as rows (n, C), and those that do not count get 0: with a mask of all True if it takes ``any``
            keyword, without one if it takes ``none``.
    """

    function: Callable[..., Tensor]
    first: tuple[str, ...]
    more: tuple[str, ...] = ()
    batch_level: bool = False
    name: str = ""
    masks: Literal["asked", "any", "none"] = "asked"

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        """The values on a batch; `given` holds everything that may be asked for, and ``mask``."""
        if self.masks == "asked":
            return self._called(given, {"mask": given["mask"]})
        mask = given["mask"]
        if mask.ndim == 1 and len(mask) and mask.all():
            return self._called(given, {"mask": mask} if self.masks == "any" else {})
        if not mask.any():  # of such a micro-batch nobody could make a mean
            nothing = torch.where(mask.unsqueeze(-1), given["logits"], 0).sum() * 0
            return nothing if self.batch_level else nothing.expand(mask.shape)
        seen = {name: _rows(given[name], mask, 1 if name in VIEWS else 0) for name in self.needs}
        values = self._called(seen, {"mask": mask[mask]} if self.masks == "any" else {})
        if values.ndim == 0:
            return values
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    def _called(self, given: Mapping[str, Any], keywords: Mapping[str, Any]) -> Tensor:
        more = {name: self._own(name, given[name]) for name in self.more}
        return self.function(*(given[name] for name in self.first), **keywords, **more)

    def _own(self, name: str, value: Any) -> Any:
        """Of the features that all criteria ask for together those of its own taps, in their order."""
        if not name.endswith("_features"):
            return value
        return {tap: value[tap] for tap in self.taps(name.partition("_")[0])}

    @property
    def needs(self) -> frozenset[str]:
        """All that it is called with but the mask."""
        return frozenset((*self.first, *self.more))

    @property
    def module(self) -> nn.Module | None:
        """The module, if it is one: what holds parameters and state."""
        return self.function if isinstance(self.function, nn.Module) else None

    def taps(self, side: str) -> tuple[str, ...]:
        """The modules whose outputs it asks for: its ``student_taps`` or ``teacher_taps``, names in that model."""
        asked = {f"{side}_features", f"{side}_view_features"} & {*self.more}
        return tuple(getattr(self.function, f"{side}_taps", ())) if asked else ()

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call one of the methods that a module may have; None where it has it not."""
        found = getattr(self.function, method, None)
        return None if found is None else found(*arguments, **keywords)

    @property
    def alone(self) -> bool:
        """Whether it trains parts of its own for now, and all else waits."""
        return bool(getattr(self.function, "alone", False))

    def has(self, method: str) -> bool:
        """Whether it is a module with this method."""
        return hasattr(self.function, method)


def of_objective(function: Callable[..., Tensor], name: str = "", *, what: str = "objective") -> Criterion:
    """A teacher's objective ``function(logits, labels, *, mask, ...)`` as a criterion; an error calls it `what`.

    Raises:
        InputError: its signature is none that it could be called by.
    """
    return _criterion(function, ("logits", "labels"), name, what, never={"teacher_features", *VIEWS})


def of_loss(function: Callable[..., Tensor], name: str = "", *, batch_level: bool = False) -> Criterion:
    """A student's loss ``function(student_logits, teacher_logits, [labels,] *, mask, ...)`` as a criterion.

    Raises:
        InputError: its signature is none that it could be called by.
    """
    return _criterion(function, ("logits", "teacher_logits"), name, "loss", batch_level=batch_level)


def _criterion(
    function: Callable[..., Tensor],
    first: tuple[str, ...],
    name: str,
    what: str,
    *,
    batch_level: bool = False,
    never: frozenset[str] | set[str] = frozenset(),
) -> Criterion:
    """A function by what its signature says that it needs."""
    name = name or _name(function)
    if isinstance(function, type):
        raise InputError(f"the {what} is the class {name}; give one that is made: {name}(...)")
    if not callable(function):
        raise InputError(f"the {what} is {function!r}; give a function")
    called = function.forward if isinstance(function, nn.Module) else function
    asked, _ = options_of(called)
    more = tuple(each for each in OFFERED if each in asked and each not in first)
    if "labels" in more and positions_of(called)[2:3] == ["labels"]:
        first, more = (*first, "labels"), tuple(each for each in more if each != "labels")
    masks = _masks(called)
    _refuse_uncallable(called, first, (*more, *(["mask"] if masks == "asked" else [])), f"the {what} '{name}'")
    refused = next((each for each in more if each in never), None)
    if refused:
        raise InputError(f"the {what} '{name}' asks for '{refused}', and no teacher teaches here; give it as a loss")
    return Criterion(function, first, more, batch_level or getattr(function, "batch_level", False), name, masks)


def own_parameters(criteria: Sequence[Criterion], room: str) -> dict[str, nn.Parameter]:
    """The parameters of criteria by name: ``ROOM.NAME``, and where several have some ``ROOM.CRITERION.NAME``."""
    found = {each.name: dict(each.module.named_parameters()) for each in criteria if each.module is not None}
    some = {criterion: parameters for criterion, parameters in found.items() if parameters}
    return {
        ".".join([room, *([criterion] if len(some) > 1 else []), name]): parameter
        for criterion, parameters in some.items()
        for name, parameter in parameters.items()
    }


def positions_of(function: Callable[..., Any]) -> list[str]:
    """The names of its positional arguments, in their order."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _masks(function: Callable[..., Any]) -> Literal["asked", "any", "none"]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # written in C
        return "none"
    if "mask" in parameters:
        return "asked"
    return "any" if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else "none"


def _refuse_uncallable(function: Callable[..., Any], first: tuple[str, ...], more: tuple[str, ...], what: str) -> None:
    """Refuse a signature that what it would be called with does not fit, in words for the commonest cause."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C: seen when it is tried
        return
    try:
        signature.bind(*first, **dict.fromkeys(more))
        return
    except TypeError as error:
        reason = str(error)
    given = ("the student's logits", "the teacher's logits") if "teacher_logits" in first else ("logits", "labels")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in signature.parameters.values() if p.kind in kinds and p.default is p.empty]
    filled = {*positions_of(function)[: len(first)], *more}
    missing = [name for name in needed if name not in filled]
    if missing:
        reason = f"also needs '{missing[0]}', for which nothing is given"
        remedy = f"give it a default, or bind it: functools.partial(..., {missing[0]}=...)"
    else:
        remedy = f"it is called with {given[0]} and {given[1]}, in this order, and with what it names of mask, "
        remedy += ", ".join(OFFERED)
    raise InputError(f"{what} {reason if missing else f'refuses what it is called with ({reason})'}; {remedy}")


def _rows(value: Any, mask: Tensor, axis: int) -> Any:
    """The examples that count, along this axis, of a tensor or of each in a mapping."""
    if isinstance(value, Mapping):
        return {name: _rows(each, mask, axis) for name, each in value.items()}
    return value[(slice(None),) * axis + (mask,)]


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    return getattr(function, "__name__", type(function).__name__)
