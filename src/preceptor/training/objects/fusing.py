"""Which task a run has: of a language model of a large vocabulary one that never makes all logits of a step."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses import linear
from preceptor.notices import note
from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe
from preceptor.schema import parts_of
from preceptor.tasks.criterion import Criterion
from preceptor.tasks.fused import FusedDistillTask, FusedTeachTask, LinearLoss, gives_states
from preceptor.tasks.task import DistillTask, TeachTask
from preceptor.tasks.teacher import TeacherFn
from preceptor.training.data.cohort import Cohort
from preceptor.training.objects.asked import plan_of

LARGE = 8192
"""Tokens from which on `auto` does without the logits: below it they cost less than they save."""
_LINEAR = [name for name in linear.__all__ if name not in ("Head", "cross_entropy")]


def teach_task(recipe: TeachRecipe, cohort: Cohort, criterion: Criterion, given: object = None) -> TeachTask:
    """What a teacher minimises; `given` is an objective that was handed over."""
    plain = given is None and recipe.objective.name == "cross_entropy" and not recipe.objective.options
    reason = _why_not(cohort) or ("" if plain else "the objective is another than cross_entropy")
    kind = FusedTeachTask if _is_fused(recipe, cohort, reason) else TeachTask
    return kind(cohort.module, criterion, plan=plan_of(recipe, cohort))


def distill_task(
    recipe: DistillRecipe,
    cohort: Cohort,
    teacher: TeacherFn,
    criteria: Sequence[tuple[Criterion, float]],
    hard: Criterion,
    given: object = None,
) -> DistillTask:
    """What a student minimises; `given` is a loss, or a loss to the labels, that was handed over."""
    options: dict[str, Any] = {
        "ce_weight": recipe.ce_weight,
        "distill_weight": recipe.distill_weight,
        "labelled": cohort.labelled,
        "label_loss": hard,
        "plan": plan_of(recipe, cohort),
    }
    named = [] if recipe.loss is None else [component for component, _ in parts_of(recipe.loss)]
    others = [each.name for each in named if each.name not in _LINEAR]
    reason = _why_not(cohort)
    if given is not None or recipe.label_loss.name != "cross_entropy" or recipe.label_loss.options:
        reason = reason or "a loss, or the loss to the labels, is one of your own or another than cross_entropy"
    elif others:
        reason = reason or f"the loss '{others[0]}' has no form from hidden states"
    if not _is_fused(recipe, cohort, reason):
        return DistillTask(cohort.module, teacher, criteria, **options)
    fused = [(_linear(each.name, each.options), weight) for each, (_, weight) in zip(named, criteria, strict=True)]
    return FusedDistillTask(cohort.module, teacher, criteria, fused=fused, **options)


def _linear(name: str, options: dict[str, Any]) -> LinearLoss:
    """A loss from hidden states as the loss of that name is of logits, whose defaults are others."""
    loss: Callable[..., Tensor] = getattr(linear, name)
    usual = inspect.signature(getattr(losses, name)).parameters.values()
    taken = inspect.signature(loss).parameters
    given = {each.name: each.default for each in usual if each.name in taken and each.default is not each.empty}
    return functools.partial(loss, **{**given, **options})


def _why_not(cohort: Cohort) -> str:
    """Why the logits of a step must be made; empty if they need not."""
    if not cohort.samples[0].are_tokens:
        return "the data are no tokens"
    if cohort.size is not None or not gives_states(cohort.module):
        return "the model does not tell its hidden states and head, as causal_lm does"
    return ""


def _is_fused(recipe: Recipe, cohort: Cohort, reason: str) -> bool:
    """What the recipe asks for, or what is best.

    Raises:
        InputError: it asks for what cannot be.
    """
    asked, size = recipe.training.fused, cohort.data.num_classes
    if asked == "auto":
        if size < LARGE or not cohort.samples[0].are_tokens:
            return False
        if reason:
            note(f"all {size} logits of each token are made, as {reason}; training.accumulate makes fewer at once")
        return not reason
    if asked and reason:
        raise InputError(f"training.fused is true, but {reason}; give training.fused=auto")
    return bool(asked)
