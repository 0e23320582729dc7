"""What a student learns from a teacher in somebody else's loop: the loss of a micro-batch, and its named parts."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.integrations.columns import of_columns
from preceptor.models.classifiers import classifier_of
from preceptor.recipe import TeacherRef
from preceptor.runs import load_teacher
from preceptor.runs.references import kind_of, teacher_references
from preceptor.schema import Component
from preceptor.tasks import Criterion, TeacherLike, as_teacher
from preceptor.tasks.reduction import check_match, reduce
from preceptor.tasks.teacher import Answer, TeacherFn, moved
from preceptor.training.objects.criteria import new_criterion

Named: TypeAlias = str | Mapping[str, Any] | Callable[..., Tensor]
"""A name, a mapping of a name and its options, or the function or module itself."""
UNLABELLED = -100
"""The label of what does not count, as in `torch.nn.CrossEntropyLoss`."""


class Distillation:
    """``ce_weight`` times a loss to the labels + ``distill_weight`` times one to the teacher, for anybody's loop.

    It is no `torch.nn.Module`: as an attribute of a model or a `LightningModule` it adds nothing to its parameters, its
    state dict or its checkpoints. The teacher is asked in eval mode and without gradient, in its own dtype, on the
    device that the student's logits are on.

    Args:
        teacher: a module, a function from the batch to logits or log-probabilities, a run folder by name
            (docs/teachers.md), a folder with a classifier that transformers has saved, a `preceptor.tasks.Teacher`, or
            a list of these or of ``(teacher, weight)``, whose probabilities are averaged.
        loss: to the teacher: a name of `preceptor.losses`, a mapping of one and its options, or a function or module
            ``loss(student_logits, teacher_logits, *, mask=None)`` that gives one value per example.
        temperature: an option of the loss, for short.
        label_loss: to the labels, cross-entropy if None: a name of `preceptor.teaching`, a mapping, or a function
            ``label_loss(logits, labels, *, mask=None)`` with one value per example; without `mask` it is called on what
            counts alone, as in ``nn.CrossEntropyLoss(weight=..., reduction="none")``.
        ce_weight, distill_weight: of the two, both as they are given.
        num_classes: C, to try both losses at once and not when the first logits are there.
        vocabulary: of models whose last outputs are padding, the first so many that count in the loss to the teacher,
            whose outputs may be more or fewer than the student's; None for all of both.

    Raises:
        InputError: a teacher, loss or weight that cannot be; a loss with parameters or a memory, which a loop would
            have to know of.

    >>> from torch import nn
    >>> distillation = Distillation(nn.Linear(2, 3), "wttm", temperature=4.0)
    >>> inputs, labels, student = torch.zeros(4, 2), torch.tensor([0, 1, 2, -100]), nn.Linear(2, 3)
    >>> sorted(distillation(inputs, student(inputs), labels))
    ['ce', 'distill', 'loss']
    """

    def __init__(
        self,
        teacher: TeacherLike | str | Path | Sequence[Any],
        loss: Named = "kd",
        *,
        temperature: float | None = None,
        label_loss: Named | None = None,
        ce_weight: float = 0.1,
        distill_weight: float = 0.9,
        num_classes: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        check_weights(ce_weight=ce_weight, distill_weight=distill_weight)
        self.teacher: TeacherFn = teacher_of(teacher)
        self.ce_weight: float = ce_weight
        self.distill_weight: float = distill_weight
        self._label_loss: Named = "cross_entropy" if label_loss is None else label_loss
        self.loss: Named = with_temperature(loss, temperature)
        self.vocabulary: int | None = vocabulary
        self._num_classes = num_classes
        self._device: torch.device | None = None
        self._of_columns: TeacherFn | None = None
        if num_classes is not None:
            _ = self.criteria

    @cached_property
    def criteria(self) -> tuple[Criterion, Criterion]:
        """The loss to the labels and the one to the teacher, tried on two examples."""
        assert self._num_classes is not None
        hard = _criterion("label_loss", self._label_loss, self._num_classes)
        return hard, _criterion("loss", self.loss, self.vocabulary or self._num_classes)

    def __call__(self, inputs: Any, logits: Tensor, labels: Tensor, count: Tensor | None = None) -> dict[str, Tensor]:
        """Ask the teacher, and give what `losses` gives.

        Args:
            inputs: what the student was given: a tensor, or a mapping that the teacher is a function of.
            logits, labels, count: as of `losses`.
        """
        return self.losses(logits, self.ask(inputs, logits.device), labels, count)

    def teacher_on(self, device: torch.device) -> TeacherFn:
        """The teacher, moved to a device."""
        if self._device != device:
            self.teacher, self._of_columns, self._device = moved(self.teacher, device), None, device
        return self.teacher

    def ask(self, inputs: Any, device: torch.device) -> Answer:
        """What the teacher says to a batch: logits or log-probabilities (..., C), without gradient; of a record its
        targets.

        Args:
            inputs: a tensor, which a module is given and a function as ``batch["input"]``; or a mapping of columns by
                name, of which a module is given those that its ``forward`` names, and a function all.
            device: where the teacher is to be.
        """
        asked = self.teacher_on(device)
        if isinstance(inputs, Mapping):
            self._of_columns = asked = self._of_columns or of_columns(self.teacher)
        with torch.no_grad():
            batch: Any = {"input": inputs}
            return asked(batch).to(device)

    def losses(
        self, logits: Tensor, teacher_logits: Answer, labels: Tensor, count: Tensor | float | None = None
    ) -> dict[str, Tensor]:
        """The loss of a micro-batch, a scalar to differentiate, with its parts.

        Args:
            logits: the student's, (B, C), or (B, T, C) for tokens.
            teacher_logits: logits or log-probabilities of the same shape; with `vocabulary` of as many classes or more.
            labels: class numbers (B,) or (B, T); -100 where an example does not count, for either loss.
            count: examples of the whole optimizer step; by default those of this batch, for a loop that makes a step of
                each, or averages over micro-batches of one size.

        Returns:
            ``loss``, and without gradient ``ce``, the loss to the labels, and ``distill``: each the sum over examples,
            by `count`. With ``ce_weight=0`` labels are not looked at but for -100, and there is no ``ce``.

        Raises:
            InputError: the classes of the teacher are not the student's, or the labels are not one class number for
                each row of logits.
        """
        counting, teacher_logits = self._of_vocabulary(logits, teacher_logits)
        check_match(counting, teacher_logits)
        _check_labels(labels, logits)
        self._num_classes = self._num_classes or logits.shape[-1]
        hard, soft = self.criteria
        mask = labels != UNLABELLED
        if count is None:
            count = mask.sum().clamp(min=1)
        given: dict[str, Any] = {"logits": logits, "teacher_logits": teacher_logits, "mask": mask}
        given["labels"] = labels.masked_fill(~mask, 0).long()
        wanted = {"ce": (hard, self.ce_weight, given)} if self.ce_weight else {}
        wanted["distill"] = (soft, self.distill_weight, {**given, "logits": counting})
        loss, parts = logits.new_zeros(()), {}
        for name, (criterion, weight, seen) in wanted.items():
            part = reduce(_on_device(criterion, logits)(seen), mask, torch.as_tensor(count), 0)
            loss, parts[name] = loss + weight * part, part.detach()
        return {"loss": loss, **parts}

    def _of_vocabulary(self, logits: Tensor, teacher_logits: Answer) -> tuple[Tensor, Answer]:
        """Both without the padding that is no class."""
        size = self.vocabulary
        if size is None:
            return logits, teacher_logits
        if not 2 <= size <= min(logits.shape[-1], teacher_logits.shape[-1]):
            raise InputError(
                f"vocabulary is {size}; give the number of tokens that student ({logits.shape[-1]} outputs) and "
                f"teacher ({teacher_logits.shape[-1]}) have both"
            )
        cut = teacher_logits[..., :size] if isinstance(teacher_logits, Tensor) else teacher_logits
        return logits[..., :size], cut

    @property
    def labels_alone(self) -> bool:
        """Whether the loss to the labels is the cross-entropy."""
        return self._label_loss in ("cross_entropy", {"name": "cross_entropy"})

    @property
    def batch_level(self) -> bool:
        """Whether the loss to the teacher is a statement about a batch, of which it sees one micro-batch at a time."""
        return self._num_classes is not None and self.criteria[1].batch_level


def check_weights(**weights: float) -> None:
    """Refuse a weight of a loss that is negative or not finite, by its name."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"{name} is {weight}; give a number of at least 0")


def teacher_of(teacher: Any) -> TeacherFn:
    """Any form of teacher, also runs by name, as one callable from a batch to logits or log-probabilities.

    Raises:
        InputError: as `preceptor.tasks.as_teacher`; no such run, or one of a model of somebody's own.
    """
    if isinstance(teacher, str | Path):
        loaded = [(_loaded(each, str(teacher)), each.weight) for each in teacher_references(str(teacher))]
        return loaded[0][0] if len(loaded) == 1 else as_teacher(loaded)
    if isinstance(teacher, list | tuple):
        pairs: list[Any] = [part if isinstance(part, tuple) else (part, 1.0) for part in teacher]
        return as_teacher([(teacher_of(part), weight) for part, weight in pairs])
    return as_teacher(teacher)


def _loaded(reference: TeacherRef, name: str) -> TeacherFn:
    if kind_of(reference.run) == "pretrained":
        return as_teacher(classifier_of(reference.run).model)  # which a loop gives tokens, or images as it has them
    try:
        return load_teacher(reference)
    except InputError as error:
        if "trust" not in (error.argument or ()):
            raise
        raise InputError(
            f"the run '{name}' has a model of somebody's own, which is not imported unasked; give the model, "
            f"teacher=preceptor.load('{name}', model=...) with the function that makes it, or with trust=True"
        ) from None


def with_temperature(loss: Named, temperature: float | None) -> Named:
    if temperature is None:
        return loss
    if callable(loss):
        raise InputError(
            f"the loss is a function, and temperature={temperature} an option of a named one; give the function with "
            f"it, functools.partial(loss, temperature={temperature})"
        )
    options = {"name": loss} if isinstance(loss, str) else dict(loss)
    if "temperature" in options:
        raise InputError(
            f"the temperature is {options['temperature']} in the loss and {temperature} beside it; give it once"
        )
    return {**options, "temperature": temperature}


def _criterion(room: str, given: Named, num_classes: int) -> Criterion:
    """A named loss or somebody's own, which must be a function of one micro-batch."""
    own = given if callable(given) else None
    said = {"name": given} if isinstance(given, str) else {"name": "own"} if callable(given) else dict(given)
    made = new_criterion(room, Component.model_validate(said), num_classes, own)
    needs = [
        f"a method {each}"
        for each in ("bind", "build", "penalty", "observe", "start_epoch", "end_step")
        if made.has(each)
    ]
    needs += [f"an argument {each}" for each in made.more]
    if made.module is not None and any(True for _ in made.module.parameters()):
        needs.append("parameters")
    if needs:
        raise InputError(
            f"the loss '{made.name}' has {needs[0]}, which only Preceptor's own loop can serve; train with "
            "preceptor.distill, or give a function of logits"
        )
    if made.module is not None:  # a function was tried when it was made
        _try(made, num_classes)
    return made


def _try(criterion: Criterion, num_classes: int) -> None:
    logits = torch.arange(2.0 * num_classes).view(2, num_classes).sin()
    given = {"logits": logits, "teacher_logits": logits, "labels": torch.tensor([0, num_classes - 1])}
    _on_device(criterion, logits)({**given, "mask": torch.tensor([True, True])})


def _on_device(criterion: Criterion, logits: Tensor) -> Criterion:
    """A criterion whose buffers (weights of classes) are where the logits are."""
    if criterion.module is not None:
        criterion.module.to(logits.device)
    return criterion


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise InputError(
            f"the labels have shape {tuple(labels.shape)} and {labels.dtype} where the student's logits have shape "
            f"{tuple(logits.shape)}; give one class number for each row of logits, or -100 where it does not count"
        )
