"""What a model minimises: one form for a teacher's objective and a student's loss, be it a function or a module.

A criterion says by its signature what it needs and is called with exactly that. A function has no more to it. A module
may have parameters of its own, which are trained, saved and resumed beside the model's and are no part of its weights,
state in buffers, and any of the methods ``bind``, ``penalty``, ``observe`` and ``start_epoch`` (docs/architecture.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from preceptor.names import options_of

OFFERED = ("labels", "index", "student_features", "teacher_features")
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
    """

    function: Callable[..., Tensor]
    first: tuple[str, ...]
    more: tuple[str, ...] = ()
    batch_level: bool = False
    name: str = ""

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        """The values on a batch; `given` holds everything that may be asked for, and ``mask``."""
        more = {name: given[name] for name in self.more}
        return self.function(*(given[name] for name in self.first), mask=given["mask"], **more)

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
        return tuple(getattr(self.function, f"{side}_taps", ())) if f"{side}_features" in self.more else ()

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call one of the methods that a module may have; None where it has it not."""
        found = getattr(self.function, method, None)
        return None if found is None else found(*arguments, **keywords)

    def has(self, method: str) -> bool:
        """Whether it is a module with this method."""
        return hasattr(self.function, method)


def of_objective(function: Callable[..., Tensor], name: str = "") -> Criterion:
    """A teacher's objective ``function(logits, labels, *, mask, ...)`` as a criterion."""
    return Criterion(function, ("logits", "labels"), _more(function, {"labels"}), name=name or _name(function))


def of_loss(function: Callable[..., Tensor], name: str = "", *, batch_level: bool = False) -> Criterion:
    """A student's loss ``function(student_logits, teacher_logits, [labels,] *, mask, ...)`` as a criterion."""
    third = ("labels",) if "labels" in _asked(function) else ()
    first = ("logits", "teacher_logits", *third)
    return Criterion(function, first, _more(function, {"labels"}), batch_level, name or _name(function))


def _more(function: Callable[..., Tensor], positional: set[str]) -> tuple[str, ...]:
    asked = _asked(function) - positional
    return tuple(name for name in OFFERED if name in asked)


def _asked(function: Callable[..., Tensor]) -> set[str]:
    return options_of(function.forward if isinstance(function, nn.Module) else function)[0]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
