"""What a model minimises: the objective or loss that a recipe names or a caller hands over, tried on two examples."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import names
from preceptor.errors import InputError, is_number
from preceptor.losses.targets import Targets, takes_targets
from preceptor.losses.tokens import note_if_hot
from preceptor.models.hub import is_pretrained
from preceptor.notices import note
from preceptor.recipe import DistillRecipe
from preceptor.recipe.published import published_weights
from preceptor.schema import SUM, Component, parts_of
from preceptor.tasks.criterion import OFFERED, Criterion, of_loss, of_objective, positions_of
from preceptor.tasks.teacher import Lookup, TeacherFn, leaves, of_all_classes
from preceptor.tasks.tokens import has_tokens, tokens_alone
from preceptor.teaching import class_weights
from preceptor.training.objects.sums import Parts, refuse_twice, weight_of

Given = Callable[..., Tensor] | None
_WEIGHTS = "class_weights"
_FIRST = {"loss": ("student_logits", "teacher_logits")}  # of a loss; of all others:
_OF_LABELS = ("logits", "labels")


def check_criterion(room: str, component: Component | None, given: Given | Parts = None) -> None:
    """Refuse, before any data are read, a criterion that cannot be called whatever they are.

    Args:
        room: ``objective``, ``loss`` or ``label_loss``.
        component: what the recipe says; None where it names none, as an object stands in for it.
        given: that object, or the parts of a sum of some.

    Raises:
        InputError: no such function, an unknown option, or a signature that does not fit.
    """
    if isinstance(given, list):
        for part, _ in given:
            named = isinstance(part, Component)
            check_criterion(room, part if named else None, None if named else part)
        return
    if given is not None:
        _read(room, given)
        return
    if component is None:
        raise InputError(
            f"the recipe names no {room}, as an object stood in for it; give {room}=, the name of one or the object",
            argument=room,
        )
    if room == "loss" and component.name == SUM:
        parts = [part for part, _ in parts_of(component)]
        refuse_twice([part.name for part in parts])
        for part in parts:
            check_criterion(room, part)
        return
    function = names.find(room, component.name, trust=True)
    if not isinstance(function, type):
        names.check_options(room, component, function, own=_filled(room))
        lacks = sorted(
            names.required_of(function) - component.options.keys() - {*_filled(room), *positions_of(function)[:2]}
        )
        if lacks:
            raise InputError(
                f"the {room} '{component.name}' refuses {component.options}: it needs '{lacks[0]}'; give "
                f"{room}.{lacks[0]}=..."
            )
        _read(room, functools.partial(function, **component.options), component.name)


def new_criterion(
    room: str, component: Component | None, num_classes: int, given: Given = None, *, counts: Tensor | None = None
) -> Criterion:
    """What a model minimises, of a recipe that is to be trained: a class is instantiated, a function gets its options.

    Args:
        room, component, given: as of `check_criterion`.
        num_classes: of the data.
        counts: training samples of each class, int64 (C,), for class weights that are counted.

    Raises:
        InputError: as `check_criterion`; a value that it refuses, or it gives anything but one value per example (a
            loss may give one for the batch).
    """
    if given is not None:
        criterion = _read(room, given)
        return _tried(room, criterion, Component(name=criterion.name), num_classes)
    assert component is not None
    function = names.find(room, component.name, trust=True)
    counted = _counted(room, component, counts)
    if isinstance(function, type):
        return _tried(room, _read(room, names.call(room, counted, trust=True), component.name), component, num_classes)
    names.check_options(room, component, function, own=_filled(room))
    read = _read(room, functools.partial(function, **counted.options), component.name)
    return _tried(room, read, component, num_classes)


def new_objective(component: Component, num_classes: int) -> Criterion:
    """A teacher's objective; as `new_criterion`."""
    return new_criterion("objective", component, num_classes)


_MANY = 1000


def note_squared_error(component: Component, num_classes: int, model: nn.Module) -> None:
    """Say that squared error cannot start on many classes, unless the model comes with weights."""
    if component.name == "mse" and num_classes > _MANY and not is_pretrained(model):
        note(
            f"mse over {num_classes} classes: its gradient all but vanishes where the true class has little "
            "probability, as everywhere at random weights; start from a model trained by cross-entropy"
        )


def note_hot(losses: Sequence[tuple[Criterion, float]], vocabulary: int) -> None:
    """Say that a loss has a temperature, given or its default, at which a teacher of so many tokens says little."""
    for criterion, _ in losses:
        function = criterion.function
        by_default = inspect.signature(function).parameters.get("temperature")
        found: Any = by_default.default if by_default is not None else getattr(function, "temperature", None)
        if is_number(found):
            note_if_hot(criterion.name, float(found), vocabulary)


def new_loss(component: Component, num_classes: int) -> Criterion:
    """A student's loss to its teacher; as `new_criterion`."""
    return new_criterion("loss", component, num_classes)


def new_losses(
    component: Component | None,
    num_classes: int,
    given: Given | Parts = None,
    *,
    counts: Tensor | None = None,
    student: str = "",
) -> list[tuple[Criterion, float]]:
    """A student's loss, or the parts of a sum with their weights: as given, else as published, else 1.

    Args, raises: as of `new_criterion`.
        given: an object, or the parts of a sum of names and objects.
        student: the name of the student's model, as some losses are weighed by it.
    """
    made = functools.partial(new_criterion, "loss", num_classes=num_classes, counts=counts)
    if callable(given):
        return [(made(component, given=given), 1.0)]
    assert component is not None or given is not None
    if component is not None and given is None and component.name != SUM:
        return [(made(component), 1.0)]
    losses = []
    for part, weight in parts_of(component) if component is not None and given is None else given or ():
        criterion = made(part) if isinstance(part, Component) else made(None, given=part)
        losses.append((criterion, weight_of(part, student) if weight is None else float(weight)))
    refuse_twice([each.name for each, _ in losses])
    return losses


def say_unpublished(recipe: DistillRecipe) -> None:
    """Say where the weights are not those that the loss was published with: a recipe has another's, perhaps."""
    used = {"ce_weight": recipe.ce_weight, "distill_weight": recipe.distill_weight}
    published = published_weights(recipe.loss, recipe.model)
    if recipe.loss is not None and published and used["distill_weight"] != published["distill_weight"]:
        what = "those of a sum's parts hold" if recipe.loss.name == SUM else f"'{recipe.loss.name}' was published"
        ours, theirs = (" ".join(f"{key}={weight:g}" for key, weight in each.items()) for each in (used, published))
        note(f"the weights are {ours}; {what} with {theirs}")


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
    if has_tokens(two):  # two positions of these rows
        alone = tokens_alone(two)
        two, said = {name: alone[name][:2] for name in ("label", "mask", "index")}, said[:2]
    given = {**two, "logits": _two_examples(num_classes), "teacher_logits": said.to("cpu"), "labels": two["label"]}
    try:
        criterion(given)
    except ValueError as error:
        raise InputError(f"the loss '{criterion.name}' cannot learn from this record: {error}") from error


def _read(room: str, function: Callable[..., Tensor], name: str = "") -> Criterion:
    return of_loss(function, name) if room == "loss" else of_objective(function, name, what=room)


def _filled(room: str) -> tuple[str, ...]:
    """What is no option of a criterion, as Preceptor fills it in."""
    return (*_FIRST.get(room, _OF_LABELS), "mask", *OFFERED)


def _counted(room: str, component: Component, counts: Tensor | None) -> Component:
    """With class weights as a list, where the recipe says by a word how to count them."""
    said = component.options.get(_WEIGHTS)
    words = {"name": said} if isinstance(said, str) else said
    if not isinstance(words, Mapping):
        return component
    key = f"{room}.{_WEIGHTS}"
    if counts is None:
        raise InputError(f"'{key}' is {said!r}, which here has no samples to count; give a number for each class")
    options = {name: value for name, value in words.items() if name != "name"}
    if "name" not in words or options.keys() - {"beta"} or (options and words["name"] != "effective"):
        raise InputError(f"'{key}' is {said!r}; give balanced, {{name: effective, beta: 0.999}}, or a list of numbers")
    more: Any = {"how": words["name"], **options}
    try:
        weights = class_weights(counts, **more)
    except (InputError, TypeError) as error:
        raise InputError(f"'{key}' is {said!r}: {error}") from None
    return Component.model_validate({**component.model_dump(), _WEIGHTS: weights.tolist()})


def _tried(room: str, criterion: Criterion, component: Component, num_classes: int) -> Criterion:
    """A criterion, once it is seen on two examples that it takes its options, whether it speaks of a batch, and whether
    it leaves out what its mask does.
    """
    bound = any(criterion.has(each) for each in ("bind", "build", "start_epoch"))  # before it can be called
    if bound or set(criterion.more) - {"index", "labels"}:
        return criterion
    tried = criterion
    if isinstance(criterion.function, nn.Module):  # which may remember what it sees
        tried = replace(criterion, function=copy.deepcopy(criterion.function))
    logits = _two_examples(num_classes)
    labels = torch.tensor([0, 1])
    given = {"logits": logits.clone().requires_grad_(), "teacher_logits": logits, "labels": labels, "index": labels}
    values, masks = _masked(tried, given)
    if values is None:
        values = _try(lambda: tried(given | {"mask": torch.tensor([True, True])}), room, component)
    allowed, remedy = [(2,)], "without reduction"
    if room == "loss":
        allowed, remedy = [(2,), ()], "or a scalar if it is a statement about the batch"
    if not isinstance(values, Tensor) or tuple(values.shape) not in allowed:
        raise InputError(
            f"the {room} '{component.name}' gives {_what(values)} for 2 examples; return one value per "
            f"example, {remedy}"
        )
    if torch.is_grad_enabled() and not values.requires_grad and not criterion.has("observe"):
        raise InputError(
            f"the {room} '{component.name}' has no gradient, so that nothing would be learned from it; leave out what "
            "breaks it off, such as .detach(), .argmax() or torch.no_grad()"
        )
    return replace(criterion, batch_level=values.ndim == 0, masks=masks)


def _masked(criterion: Criterion, given: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """What a criterion gives for two examples of which its mask leaves out the second, whose logits are NaN; and how
    one is left out: by that mask, unless it does not look at it. None where that alone does not say.
    """
    if criterion.masks != "asked":
        return None, criterion.masks
    mask, noise = torch.tensor([True, False]), torch.tensor([[0.0], [torch.nan]])
    masked = {name: tensor + noise if tensor.is_floating_point() else tensor for name, tensor in given.items()}
    try:
        values = criterion({**masked, "mask": mask})
        if values.ndim == 0 and values.isnan():  # of one example there may be nothing to say
            alone = criterion({**{name: tensor[:1] for name, tensor in given.items()}, "mask": mask[:1]})
            return None, "asked" if alone.isnan() else "any"
        return values, "asked" if values.ndim == 0 or values[1] == 0 else "any"
    except Exception:  # of somebody else's code; what is wrong is seen, and said, when all examples count
        return None, "asked"


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
