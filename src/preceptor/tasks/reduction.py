"""From one value per example to the loss of a step, and what must fit before."""

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.tasks.teacher import Answer


def mixed(own: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """The values of mixed examples (..., B), from those to their own labels and to their partners'."""
    return torch.lerp(partners, own, share.to(own))


def reduce(values: Tensor, mask: Tensor, count: Tensor, lead: int) -> Tensor:
    """Per-example values (..., B, ...) as the share of this micro-batch in the step's mean; shape
    ``values.shape[:lead]``.

    A batch-level value (no example axis) counts for as many examples as it was computed from.
    """
    if values.ndim == lead:
        return values * mask.flatten(lead).sum(-1) / count
    return values.flatten(lead).sum(-1) / count


def check_match(student: Tensor, teacher: Answer) -> None:
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
