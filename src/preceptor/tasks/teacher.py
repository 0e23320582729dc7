"""What a student learns from: any callable from a batch to logits or log-probabilities, or a weighted list of
them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.outputs import average_probabilities, read_logits, transformed
from preceptor.schema import Transform

Batch: TypeAlias = Mapping[str, Tensor]
TeacherFn: TypeAlias = Callable[[Batch], Tensor]
TeacherLike: TypeAlias = nn.Module | TeacherFn | Sequence["TeacherLike | tuple[TeacherLike, float]"]


class Teacher:
    """A model as a teacher: asked in eval mode and without gradient, and left as it was but for its device.

    Args:
        model: maps ``batch["input"]`` to logits (..., C).
        distribution: how logits become the teacher's distribution; ``clip`` is for models trained by squared
            error on the logits (clip to [0, 1], renormalise).
        temperature: divides the logits (post-hoc calibration).
        class_names: names of the C classes, compared with the student's where both are known.
        transform: done to the output last (`preceptor.assess.transformed`).
    """

    distribution: str
    temperature: float
    transform: Transform | None
    class_names: tuple[str, ...]

    def __init__(
        self,
        model: nn.Module,
        *,
        distribution: str = "softmax",
        temperature: float = 1.0,
        class_names: Sequence[str] = (),
        transform: Transform | None = None,
    ) -> None:
        # Not registered anywhere: a teacher's parameters are no optimizer's business.
        self.model: nn.Module = model
        self.distribution, self.temperature, self.class_names = distribution, temperature, tuple(class_names)
        self.transform = transform

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        with in_eval_mode(self.model):
            said = read_logits(self.model(batch["input"]), self.distribution, self.temperature)
        return said if self.transform is None else transformed(said, self.transform)


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode, and afterwards those of its modules that were in training mode back into that."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Mixture:
    """The weighted mean of several teachers' probabilities, as log-probabilities."""

    weights: list[float]

    def __init__(self, teachers: Sequence[TeacherFn], weights: Sequence[float]) -> None:
        self.teachers, self.weights = list(teachers), list(weights)

    def to(self, device: torch.device | str) -> "Mixture":
        """Move the teachers that can be moved."""
        self.teachers: list[TeacherFn] = [moved(teacher, device) for teacher in self.teachers]
        return self

    def __call__(self, batch: Batch) -> Tensor:
        return average_probabilities([teacher(batch) for teacher in self.teachers], self.weights)


class Transformed:
    """A teacher whose output is transformed before a student sees it (`preceptor.assess.transformed`)."""

    transform: Transform

    def __init__(self, teacher: TeacherFn, transform: Transform) -> None:
        self.teacher, self.transform = teacher, transform

    def to(self, device: torch.device | str) -> "Transformed":
        """Move the teacher, if it can be moved."""
        self.teacher: TeacherFn = moved(self.teacher, device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        return transformed(self.teacher(batch), self.transform)


class Lookup:
    """A teacher's outputs for every sample, computed before: ``table[..., batch["index"], :]``.

    Args:
        table: logits or log-probabilities (N, C) by sample index, or (U, N, C) for a stack.
        row_of: for each model of a stack, the row of `table` that teaches it.
    """

    def __init__(self, table: Tensor, row_of: Sequence[int] | None = None) -> None:
        self.table = table
        self.row_of = None if row_of is None else torch.tensor(list(row_of))[:, None]

    def to(self, device: torch.device | str) -> "Lookup":
        """Move the table."""
        self.table: Tensor = self.table.to(device)
        self.row_of = None if self.row_of is None else self.row_of.to(device)
        return self

    def __call__(self, batch: Batch) -> Tensor:
        index = batch["index"]
        return self.table[index] if self.row_of is None else self.table[self.row_of, index]


def moved(teacher: TeacherFn, device: torch.device | str) -> TeacherFn:
    """`teacher` on `device`, if it is one of ours; an outsider's callable looks after itself."""
    return teacher.to(device) if isinstance(teacher, Teacher | Mixture | Transformed | Lookup) else teacher


def leaves(teacher: TeacherFn) -> Iterator[TeacherFn]:
    """The teachers that a mixture is made of, or the one there is."""
    if isinstance(teacher, Mixture):
        for part in teacher.teachers:
            yield from leaves(part)
    elif isinstance(teacher, Transformed):
        yield from leaves(teacher.teacher)
    else:
        yield teacher


def as_teacher(teacher: TeacherLike) -> TeacherFn:
    """Any form of teacher as one callable from a batch to logits or log-probabilities.

    A module is given ``batch["input"]``, in eval mode and without gradient; a sequence (of teachers, or of pairs with a
    weight) becomes the mean of their probabilities.

    Raises:
        InputError: an empty list, a weight that is not positive, or something that cannot be called.
    """
    if isinstance(teacher, nn.Module):
        return Teacher(teacher)
    if callable(teacher):
        return teacher
    if not isinstance(teacher, Sequence) or isinstance(teacher, str) or not teacher:
        what = "an empty one" if isinstance(teacher, list | tuple) else f"a {type(teacher).__name__}"
        raise InputError(f"a teacher is a callable from batch to logits, a module, or a list of them, not {what}")
    pairs: list[Any] = [part if isinstance(part, tuple) else (part, 1.0) for part in teacher]
    weights = [weight for _, weight in pairs]
    if any(not weight > 0 for weight in weights):
        raise InputError(f"the teachers' weights are {weights}; give positive numbers")
    return Mixture([as_teacher(part) for part, _ in pairs], weights)
