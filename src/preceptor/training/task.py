"""A task maps a batch to ``{"loss": ..., named parts...}``; the loop does not know what a teacher is.

Losses and objectives give one value per example (or token); reduction happens here, once: the sum over unmasked examples
divided by `count`, the number of unmasked examples in the whole optimizer step. So micro-batches and processes add up to
exactly what one batch would give. For a stack each model has its own count, and the models' losses are summed.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.teaching import cross_entropy
from preceptor.training.stack import Stack
from preceptor.training.teacher import TeacherFn

Output = dict[str, Tensor]


class Task(Protocol):
    """What the loop needs of a task."""

    model: nn.Module
    state: nn.Module | None

    def __call__(self, batch: Mapping[str, Tensor], count: Tensor) -> Output:
        """``loss`` (a scalar to differentiate), ``logits``, and parts to log (scalars, or one value per model)."""
        ...

    def penalty(self) -> Tensor | None:
        """A term added once per optimizer step (a scalar, or one value per model), or None."""
        ...

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """See a whole optimizer step's outputs, gathered over processes, after the step."""
        ...

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0."""
        ...

    observes: bool
    batch_level: bool


def reduce(values: Tensor, mask: Tensor, count: Tensor, lead: int) -> Tensor:
    """Per-example values (..., B, ...) as the share of this micro-batch in the step's mean; shape ``values.shape[:lead]``.

    A batch-level value (no example axis) counts for as many examples as it was computed from.
    """
    if values.ndim == lead:
        return values * mask.flatten(lead).sum(-1) / count
    return values.flatten(lead).sum(-1) / count


class TeachTask:
    """Train a model under an objective on hard labels.

    Args:
        model: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        objective: ``objective(logits, labels, *, mask)``, or a stateful one (docs/architecture.md).
        num_samples: size of the data set that ``index`` points into, for stateful objectives.
    """

    batch_level = False

    def __init__(self, model: nn.Module, objective: Callable[..., Tensor], *, num_samples: int, num_classes: int) -> None:
        self.model, self.objective = model, objective
        self.structure = model.template if isinstance(model, Stack) else model
        self.tensors: Callable[[], Mapping[str, Tensor]] = (
            model.tensors if isinstance(model, Stack) else lambda: dict(model.named_parameters()) | dict(model.named_buffers())
        )
        self.lead = int(isinstance(model, Stack))
        self.state = objective if isinstance(objective, nn.Module) else None
        if hasattr(objective, "bind"):
            stack = (model.size,) if isinstance(model, Stack) else ()
            objective.bind(model=self.structure, num_samples=num_samples, num_classes=num_classes, stack=stack)
        self.observes = hasattr(objective, "observe")

    def __call__(self, batch: Mapping[str, Tensor], count: Tensor) -> Output:
        logits = self.model(batch["input"])
        # Masked labels may be anything; the objective must not trip over them.
        labels = batch["label"].masked_fill(~batch["mask"], 0)
        index = {"index": batch["index"]} if self.state is not None else {}
        values = self.objective(logits, labels, mask=batch["mask"], **index)
        share = reduce(values, batch["mask"], count, self.lead)
        return {"loss": share.sum(), "logits": logits, "objective": share.detach()}

    def penalty(self) -> Tensor | None:
        """The objective's penalty on the weights."""
        function = getattr(self.objective, "penalty", None)
        if function is None:
            return None
        tensors = dict(self.tensors())
        return torch.vmap(function)(tensors) if self.lead else function(tensors)

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """Hand the step's outputs to an objective that remembers them."""
        self.objective.observe(logits, index, mask)  # type: ignore[attr-defined]

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Tell an objective with a schedule where training stands."""
        if hasattr(self.objective, "start_epoch"):
            self.objective.start_epoch(epoch, epochs)  # type: ignore[attr-defined]


class DistillTask:
    """Train a student: ``ce_weight`` CE to the labels + ``distill_weight`` times a loss to the teacher, per example.

    Args:
        student: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        teacher: maps the batch to logits or log-probabilities of the student's shape.
        loss: ``loss(student_logits, teacher_logits, *, mask)``; for a stack, a list of ``(models, loss)`` where `models`
            are indices of the models that it trains.
        labelled: bool (N,) by sample index, or (M, N): where False the label is never looked at. None: all labelled.
        needs_labels: the loss takes the labels third (DKD).
        batch_level: the loss is a statement about a batch (DIST).
    """

    state = None
    observes = False

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherFn,
        loss: Callable[..., Tensor] | list[tuple[list[int], Callable[..., Tensor]]],
        *,
        ce_weight: float | Tensor = 0.1,
        distill_weight: float | Tensor = 0.9,
        labelled: Tensor | None = None,
        needs_labels: bool = False,
        batch_level: bool = False,
    ) -> None:
        self.model, self.teacher, self.loss = student, teacher, loss
        self.lead = int(isinstance(student, Stack))
        self.ce_weight, self.distill_weight, self.labelled = ce_weight, distill_weight, labelled
        self.needs_labels, self.batch_level = needs_labels, batch_level

    def __call__(self, batch: Mapping[str, Tensor], count: Tensor) -> Output:
        logits = self.model(batch["input"])
        mask = batch["mask"]
        known = mask if self.labelled is None else mask & self._labelled(batch["index"])
        labels = batch["label"].masked_fill(~known, 0)
        with torch.no_grad():
            teacher = self.teacher(batch)
        check_match(logits, teacher)
        hard = reduce(cross_entropy(logits, labels, mask=known), mask, count, self.lead)
        soft_mask = known if self.needs_labels else mask
        soft = reduce(self._distill(logits, teacher, labels, soft_mask), soft_mask, count, self.lead)
        loss = self.ce_weight * hard + self.distill_weight * soft
        return {"loss": loss.sum(), "logits": logits, "ce": hard.detach(), "distill": soft.detach()}

    def _labelled(self, index: Tensor) -> Tensor:
        assert self.labelled is not None
        self.labelled = self.labelled.to(index.device)
        return self.labelled[index] if self.labelled.ndim == 1 else self.labelled.gather(-1, index)

    def _distill(self, logits: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        arguments = (logits, teacher, *([labels] if self.needs_labels else []), mask)
        if callable(self.loss):
            return _with_mask(self.loss)(*arguments)
        # vmap gives a batch-level loss one value per model, as it would give each alone.
        parts = [torch.vmap(_with_mask(loss))(*(a[models] for a in arguments)) for models, loss in self.loss]
        order = torch.tensor([model for models, _ in self.loss for model in models])
        return torch.cat(parts)[order.argsort()]

    def penalty(self) -> Tensor | None:
        """A student has none."""
        return None

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """A student's losses remember nothing."""

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """A student's losses have no schedule."""


def _with_mask(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss` with the mask as its last positional argument."""
    return lambda *arguments: loss(*arguments[:-1], mask=arguments[-1])


def check_match(student: Tensor, teacher: Tensor) -> None:
    """Refuse a teacher whose output does not fit the student's."""
    if student.shape[-1] != teacher.shape[-1]:
        raise InputError(
            f"the teacher has {teacher.shape[-1]} classes and the student {student.shape[-1]}; "
            "train the student with as many classes as its teacher"
        )
    if student.shape != teacher.shape:
        raise InputError(
            f"the teacher's output has shape {tuple(teacher.shape)} where the student's has {tuple(student.shape)}; "
            "a teacher maps a batch to one row of logits per example"
        )


def is_batch_level(loss: Callable[..., Any], num_classes: int, *, needs_labels: bool) -> bool:
    """Whether `loss` is a statement about a batch rather than about each example, by trying it on a small one."""
    logits = torch.zeros(2, max(2, num_classes))
    labels = [torch.zeros(2, dtype=torch.int64)] if needs_labels else []
    return loss(logits, logits, *labels).ndim == 0
