"""Losses that have the first epochs of a run for themselves."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.features._maps import MapLoss
from preceptor.losses.features.base import Features, count


def is_alone(loss: str, init_epochs: int, epoch: int, epochs: int) -> bool:
    """Whether an epoch, the first of which is 0, is one of a loss's own.

    Raises:
        InputError: no epoch of the run would be left for the labels.
    """
    if init_epochs >= epochs:
        raise InputError(
            f"init_epochs of the loss '{loss}' are {init_epochs} of the {epochs} epochs of this run, which leaves none "
            "for the labels; give fewer of them, or more epochs"
        )
    return epoch < init_epochs


class AloneFirst(MapLoss):
    """A loss of maps that stands alone for the first epochs, while the loss to the labels waits.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        init_epochs: how many epochs these are, of those of the run.

    Raises:
        InputError: init_epochs is negative.
    """

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        init_epochs: int = 30,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        count("init_epochs", init_epochs, 0)
        self.init_epochs: int = init_epochs
        self.alone: bool = init_epochs > 0

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Whether it stands alone in this epoch, the first of which is 0.

        Raises:
            InputError: no epoch of the run would be left for the labels.
        """
        self.alone = is_alone(type(self).__name__, self.init_epochs, epoch, epochs)


class OnlyFirst(AloneFirst):
    """A loss that prepares the student in the first epochs and is 0 from then on; beside the labels' where it has none.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        init_epochs: how many epochs it has for itself, of those of the run; 0: it stands beside the labels' loss
            throughout.
    """

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, "*batch"]:
        """The loss of each sample, in float32 at least; 0 once the first epochs are over."""
        if self.init_epochs and not self.alone:
            dtype = torch.promote_types(student_logits.dtype, torch.float32)
            return student_logits.new_zeros(len(student_logits), dtype=dtype)
        return super().forward(
            student_logits, teacher_logits, student_features=student_features, teacher_features=teacher_features
        )
