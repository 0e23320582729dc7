"""The held-out score whose best epoch is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor import assess, names
from preceptor.errors import InputError
from preceptor.recipe import Metric, Recipe
from preceptor.schema import Component
from preceptor.training.objects.own import Own

_OF_CLASSES = {"macro_f1": assess.macro_f1, "balanced_accuracy": assess.balanced_accuracy}


@dataclass(frozen=True)
class Selection:
    """What chooses the best epoch.

    Args:
        name: what the scores call it.
        maximize: whether more is better.
        function: from log-probabilities or logits (n, C) and labels (n,) to a number; None where it is scored anyway.
    """

    name: str = "brier"
    maximize: bool = False
    function: Callable[[Tensor, Tensor], float] | None = None

    def score(self, outputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Its value for outputs (n, C) and labels (n,), or one a model of a stack; empty if it is scored anyway."""
        if self.function is None:
            return {}
        if outputs.ndim == 2:
            return {self.name: self.function(outputs, labels)}
        return {self.name: [self.function(each, of_it) for each, of_it in zip(outputs, labels, strict=True)]}


def selection_of(recipe: Recipe, own: Own, num_classes: int) -> Selection:
    """The score that a recipe selects by, or the caller's own, tried on a few examples.

    Raises:
        InputError: no such function, an unknown option, or no number comes of it.
    """
    said = recipe.training.select
    if own.select is None and not isinstance(said, Metric):
        function = _OF_CLASSES.get(said)
        plain = None if function is None else lambda outputs, labels: float(function(outputs, labels))
        return Selection(said, recipe.training.maximize, plain)
    if own.select is not None:
        name = getattr(own.select, "__name__", type(own.select).__name__)
        found = Selection(name, bool(own.maximize), _numbered(own.select, name, "probabilities"))
    else:
        assert isinstance(said, Metric)
        found = Selection(said.name, said.maximize, _numbered(_metric(said), said.name, said.of))
    assert found.function is not None
    labels = torch.arange(2 * num_classes) % num_classes
    found.function(torch.arange(2.0 * num_classes**2).view(len(labels), num_classes).sin(), labels)
    return found


def _metric(said: Metric) -> Callable[[Tensor, Tensor], Any]:
    """The function that a recipe names; of a class a new one each time, as it may add up what it sees."""
    function = names.find("training.select", said.name, trust=True)
    component = Component.model_validate({"name": said.name, **said.options})
    names.check_options("training.select", component, function)
    if isinstance(function, type):
        return lambda outputs, labels: function(**said.options)(outputs, labels)
    return lambda outputs, labels: function(outputs, labels, **said.options)


def _numbered(function: Callable[..., Any], name: str, of: str) -> Callable[[Tensor, Tensor], float]:
    def number(outputs: Tensor, labels: Tensor) -> float:
        given = outputs.log_softmax(-1).exp() if of == "probabilities" else outputs
        try:
            value = float(function(given, labels))
        except Exception as error:  # of somebody else's code
            raise InputError(
                f"the metric '{name}' gives no number for {of} of shape {tuple(given.shape)} and labels of shape "
                f"{tuple(labels.shape)}: {error}"
            ) from error
        if np.isnan(value):
            raise InputError(f"the metric '{name}' is NaN, which is neither better nor worse; give another")
        return value

    return number
