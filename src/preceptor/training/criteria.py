"""What a model minimises: the objective or loss that a recipe names or a caller hands over, tried on two examples."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from preceptor import names
from preceptor.errors import InputError
from preceptor.losses.targets import Targets, takes_targets
from preceptor.schema import Component
from preceptor.tasks.criterion import OFFERED, Criterion, of_loss, of_objective
from preceptor.tasks.teacher import Lookup, TeacherFn, leaves, of_all_classes


def new_objective(component: Component, num_classes: int) -> Criterion:
    """A teacher's objective, of a recipe that is to be trained: a class of state is instantiated, a function gets its
    options.

    Raises:
        InputError: no such objective, an unknown option, or a value that it refuses.
    """
    function = names.find("objective", component.name, trust=True)
    if isinstance(function, type):
        return of_objective(names.call("objective", component, trust=True), component.name)
    names.check_options("objective", component, function, own=("logits", "labels", "mask", *OFFERED))
    return _tried(
        "objective",
        of_objective(functools.partial(function, **component.options), component.name),
        component,
        num_classes,
    )


def as_objective(objective: Callable[..., Tensor], num_classes: int) -> Criterion:
    """Somebody's own objective, tried on two examples if it has no state.

    Raises:
        InputError: it gives anything but one value per example.
    """
    criterion = of_objective(objective)
    return _tried("objective", criterion, Component(name=criterion.name), num_classes)


def new_loss(component: Component, num_classes: int) -> Criterion:
    """A student's loss, of a recipe that is to be trained: a class is instantiated, a function gets its options.

    Raises:
        InputError: no such loss, an unknown option, or a value that it refuses.
    """
    function = names.find("loss", component.name, trust=True)
    if isinstance(function, type):
        return of_loss(names.call("loss", component, trust=True), component.name)
    own = ("student_logits", "teacher_logits", "mask", *OFFERED)
    names.check_options("loss", component, function, own=own)
    return _tried(
        "loss", of_loss(functools.partial(function, **component.options), component.name), component, num_classes
    )


def as_loss(loss: Callable[..., Tensor], num_classes: int) -> Criterion:
    """Somebody's own loss, tried on two examples if it has no state.

    Raises:
        InputError: it gives neither one value per example nor one for the batch.
    """
    criterion = of_loss(loss)
    return _tried("loss", criterion, Component(name=criterion.name), num_classes)


def refuse_mixing(criterion: Criterion | None, teacher: TeacherFn | None = None) -> None:
    """Refuse mixed samples where a label or an answer belongs to a sample as it is.

    Raises:
        InputError: a criterion that remembers samples, one that speaks of a batch, a loss that asks for labels, or a
            teacher whose answers are in a table.
    """
    reason = None
    if teacher is not None and any(isinstance(leaf, Lookup) for leaf in leaves(teacher)):
        reason = "the teacher's answers stand in a table, which knows nothing of mixed samples; give a live teacher"
    elif criterion is not None and (criterion.has("observe") or "index" in criterion.needs):
        reason = f"'{criterion.name}' remembers each sample, and a mixed one is none of them; take another"
    elif criterion is not None and "labels" in criterion.needs and teacher is not None:
        reason = f"the loss '{criterion.name}' asks for the label, and a mixed sample has two; take another"
    elif criterion is not None and criterion.batch_level and teacher is None:
        reason = f"'{criterion.name}' gives one value for a batch, and mixed samples need one each; take another"
    if reason is not None:
        raise InputError(f"{reason}, or leave the mixing out")


def refuse_targets(criterion: Criterion, teacher: TeacherFn, two: Mapping[str, Tensor], num_classes: int) -> None:
    """Refuse a loss that can make nothing of what a record has kept, before anything is trained.

    Args:
        two: a batch of two samples that are on record.

    Raises:
        InputError: with the loss's own reason.
    """
    said = teacher(two)
    if not isinstance(said, Targets):
        return
    if not takes_targets(criterion.function):
        of_all_classes(said, f"the loss '{criterion.name}'")
    given = {**two, "logits": _two_examples(num_classes), "teacher_logits": said.to("cpu"), "labels": two["label"]}
    try:
        criterion(given)
    except ValueError as error:
        raise InputError(f"the loss '{criterion.name}' cannot learn from this record: {error}") from error


def _tried(room: str, criterion: Criterion, component: Component, num_classes: int) -> Criterion:
    """A criterion, once it is seen on two examples that it takes its options, and whether it speaks of a batch."""
    if criterion.module is not None or set(criterion.more) - {"index"}:  # bound to a model before it can be called
        return criterion
    logits = _two_examples(num_classes)
    labels = torch.tensor([0, 1])
    given = {"logits": logits, "teacher_logits": logits, "labels": labels, "index": labels}
    values = _try(lambda: criterion(given | {"mask": torch.tensor([True, True])}), room, component)
    allowed, remedy = [(2,)], "without reduction"
    if room == "loss":
        allowed, remedy = [(2,), ()], "or a scalar if it is a statement about the batch"
    if not isinstance(values, Tensor) or tuple(values.shape) not in allowed:
        raise InputError(
            f"the {room} '{component.name}' gives {_what(values)} for 2 examples; return one value per "
            f"example, {remedy}"
        )
    return replace(criterion, batch_level=values.ndim == 0)


def _two_examples(num_classes: int) -> Tensor:
    return torch.arange(2.0 * num_classes).view(2, num_classes).sin()


def _what(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _try(call: Callable[[], Any], room: str, component: Component) -> Any:
    """Call once on a tiny batch, so that a bad value is refused before anything is written."""
    try:
        return call()
    except Exception as error:  # somebody else's code, or a number that torch cannot hold
        raise InputError(f"the {room} '{component.name}' refuses {component.options}: {error}") from error
