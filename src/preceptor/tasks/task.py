"""A task maps a batch to ``{"loss": ..., named parts...}``; the loop does not know what a teacher is.

Losses and objectives give one value per example (or token); reduction happens here, once: the sum over
unmasked examples divided by `count`, the number of unmasked examples in the whole optimizer step. So
micro-batches and processes add up to exactly what one batch would give. For a stack each model has its own
count, and the models' losses are summed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.tasks.stack import Stack
from preceptor.tasks.teacher import TeacherFn
from preceptor.teaching import cross_entropy

Output = dict[str, Tensor]


class Task(Protocol):
    """What the loop needs of a task."""

    model: nn.Module
    state: nn.Module | None

    def __call__(self, batch: Mapping[str, Tensor], count: Tensor) -> Output:
        """``loss`` (a scalar to differentiate), ``logits``, and parts to log (scalars, or one value per
        model).
        """
        ...

    def penalty(self) -> Tensor | None:
        """A term added once per optimizer step (a scalar, or one value per model), or None."""
        ...

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """See a whole optimizer step's outputs, gathered over processes, after the step."""
        ...

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 0, and again where a run resumes within one."""
        ...

    observes: bool
    batch_level: bool


def reduce(values: Tensor, mask: Tensor, count: Tensor, lead: int) -> Tensor:
    """Per-example values (..., B, ...) as the share of this micro-batch in the step's mean; shape
    ``values.shape[:lead]``.

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

    model: nn.Module
    bare: nn.Module

    batch_level = False

    def __init__(
        self, model: nn.Module, objective: Callable[..., Tensor], *, num_samples: int, num_classes: int
    ) -> None:
        self.model, self.bare = model, model  # the loop wraps the first for several processes
        self.objective: Any = objective
        self.lead: int = int(isinstance(model, Stack))
        self.state: nn.Module | None = objective if isinstance(objective, nn.Module) else None
        self.observes: bool = hasattr(objective, "observe")
        if hasattr(objective, "bind"):
            structure, stack = (model.template, (model.size,)) if isinstance(model, Stack) else (model, ())
            self.objective.bind(model=structure, num_samples=num_samples, num_classes=num_classes, stack=stack)

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
        if isinstance(self.bare, Stack):
            return torch.vmap(function)(self.bare.tensors())
        return function(dict(self.bare.named_parameters()) | dict(self.bare.named_buffers()))

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """Hand the step's outputs to an objective that remembers them."""
        self.objective.observe(logits, index, mask)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Tell an objective with a schedule where training stands."""
        if hasattr(self.objective, "start_epoch"):
            self.objective.start_epoch(epoch, epochs)


@dataclass(frozen=True)
class Loss:
    """A student's loss with its options bound, and what the task must know about it.

    Args:
        function: ``function(student_logits, teacher_logits, *, mask)``.
        needs_labels: it takes the labels third (DKD), and so sees labelled samples only.
        batch_level: it is a statement about a batch (DIST).
    """

    function: Callable[..., Tensor]
    needs_labels: bool = False
    batch_level: bool = False

    def share(
        self, logits: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, labelled: Tensor, count: Tensor
    ) -> Tensor:
        """The loss of one model on a micro-batch, as its share in the step's mean."""
        seen = labelled if self.needs_labels else mask
        values = self.function(logits, teacher, *([labels] if self.needs_labels else []), mask=seen)
        return reduce(values, seen, count, 0)


class DistillTask:
    """Train a student: ``ce_weight`` CE to the labels + ``distill_weight`` times a loss to the teacher, per
    example.

    Args:
        student: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        teacher: maps the batch to logits or log-probabilities of the student's shape.
        loss: what the student minimises; for a stack, a list of ``(models, loss)`` where `models` are indices
            of the models that it trains.
        labelled: bool (N,) by sample index, or (M, N): where False the label is never looked at. None: all
            labelled.
    """

    model: nn.Module
    teacher: TeacherFn
    loss: Loss | Sequence[tuple[list[int], Loss]]
    ce_weight: float | Tensor
    distill_weight: float | Tensor

    state: nn.Module | None = None
    observes = False

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherFn,
        loss: Loss | Sequence[tuple[list[int], Loss]],
        *,
        ce_weight: float | Tensor = 0.1,
        distill_weight: float | Tensor = 0.9,
        labelled: Tensor | None = None,
    ) -> None:
        self.model, self.teacher, self.loss = student, teacher, loss
        self.lead: int = int(isinstance(student, Stack))
        self.ce_weight, self.distill_weight, self.labelled = ce_weight, distill_weight, labelled
        losses = [loss] if isinstance(loss, Loss) else [each for _, each in loss]
        self.batch_level: bool = any(each.batch_level for each in losses)

    def __call__(self, batch: Mapping[str, Tensor], count: Tensor) -> Output:
        logits = self.model(batch["input"])
        mask = batch["mask"]
        known = mask if self.labelled is None else mask & self._labelled(batch["index"])
        labels = batch["label"].masked_fill(~known, 0)
        with torch.no_grad():
            teacher = self.teacher(batch)
        check_match(logits, teacher)
        hard = reduce(cross_entropy(logits, labels, mask=known), mask, count, self.lead)
        soft = self._soft(logits, teacher, labels, mask, known, count)
        loss = self.ce_weight * hard + self.distill_weight * soft
        return {"loss": loss.sum(), "logits": logits, "ce": hard.detach(), "distill": soft.detach()}

    def _labelled(self, index: Tensor) -> Tensor:
        assert self.labelled is not None
        self.labelled = self.labelled.to(index.device)
        return self.labelled[index] if self.labelled.ndim == 1 else self.labelled.gather(-1, index)

    def _soft(self, *tensors: Tensor) -> Tensor:
        """The loss's share of the step's mean: a scalar, or one value per model."""
        if isinstance(self.loss, Loss):
            return self.loss.share(*tensors)
        # vmap gives every loss one model at a time, a batch-level one too.
        parts = [torch.vmap(loss.share)(*(tensor[models] for tensor in tensors)) for models, loss in self.loss]
        order = torch.tensor([model for models, _ in self.loss for model in models], device=tensors[0].device)
        return torch.cat(parts)[order.argsort()]

    def penalty(self) -> Tensor | None:
        """A student has none."""
        return None

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """A student's losses remember nothing."""

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """A student's losses have no schedule."""


def check_match(student: Tensor, teacher: Tensor) -> None:
    """Refuse a teacher whose output does not fit the student's."""
    if student.shape[-1] != teacher.shape[-1]:
        raise InputError(
            f"the teacher has {teacher.shape[-1]} classes and the student {student.shape[-1]}; "
            "train the student with as many classes as its teacher"
        )
    if student.shape != teacher.shape:
        raise InputError(
            f"the teacher's output has shape {tuple(teacher.shape)} where the student's has "
            f"{tuple(student.shape)}; a teacher maps a batch to one row of logits per example"
        )
