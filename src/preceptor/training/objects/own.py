"""What a caller hands over beside data, model, criterion and teacher: objects that no recipe can hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.recipe import Optimizer, Recipe, Schedule
from preceptor.training.objects.callbacks import check_callbacks

MakeOptimizer = Callable[[Sequence[Any]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer, int], Any]


@dataclass(frozen=True, eq=False)
class Own:
    """Somebody's own parts of a run.

    Args:
        label_loss: in place of the recipe's.
        optimizer: from the parameters, or groups of them, to an optimizer, with its learning rate.
        scheduler: from the optimizer and the number of all steps to a scheduler, stepped after each of them.
        select: from held-out probabilities (n, C) and labels (n,) to a number, in place of ``training.select``.
        maximize: whether more of that is better.
        callbacks: objects with any of the methods ``on_step_end`` and ``on_epoch_end``; no part of what the run is.
    """

    label_loss: Callable[..., Tensor] | None = None
    optimizer: MakeOptimizer | None = None
    scheduler: MakeScheduler | None = None
    select: Callable[..., Any] | None = None
    maximize: bool | None = None
    callbacks: tuple[Any, ...] = ()

    def objects(self) -> dict[str, Any]:
        """Those that make a run this one, by role."""
        named = {
            "label_loss": self.label_loss,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "select": None if self.select is None else [self.select, self.maximize],
        }
        return {role: thing for role, thing in named.items() if thing is not None}

    def check(self, recipe: Recipe) -> "Own":
        """The same, once it is seen that each is callable, and the only one to say what it says.

        Raises:
            InputError: it is not, or the recipe says that, too.
        """
        for role, wanted in (
            (
                "optimizer",
                "a function of the parameters that makes one, such as lambda p: torch.optim.Adam(p, lr=1e-3)",
            ),
            ("scheduler", "a function of the optimizer and the number of steps that makes one"),
            ("select", "a function of probabilities and labels"),
        ):
            given = getattr(self, role)
            if given is not None and not callable(given):
                raise InputError(f"the {role} is a {type(given).__name__}; give {wanted}", argument=role)
        if self.optimizer is not None:
            _refuse_said(recipe.optimizer, Optimizer(), ("no_decay", "layer_decay", "rates"), "optimizer")
        if self.scheduler is not None:
            _refuse_said(recipe.schedule, Schedule(), (), "schedule")
        if self.select is not None and not isinstance(self.maximize, bool):
            raise InputError(
                "select is a function, of which is not known whether more is better; give maximize=True or "
                "maximize=False",
                argument="maximize",
            )
        if self.select is None and self.maximize is not None:
            raise InputError(
                "maximize says what is better of a function of yours; give that as select, or leave it out"
            )
        return replace(self, callbacks=check_callbacks(self.callbacks))


def _refuse_said(said: Any, default: Any, allowed: Sequence[str], key: str) -> None:
    """Refuse a recipe that says something of what an object decides."""
    ours, theirs = said.model_dump(), default.model_dump()
    given = next((name for name in ours if name not in allowed and ours[name] != theirs.get(name)), None)
    if given is not None:
        role = "scheduler" if key == "schedule" else key
        raise InputError(
            f"{key}.{given} is {ours[given]!r}, but the {role} is an object, which decides that itself; leave one out",
            argument=role,
        )
