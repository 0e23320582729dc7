"""CTKD: a temperature that learns to make distillation harder."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from preceptor.losses import sparse
from preceptor.losses._common import prepare, refused, zero_where_masked
from preceptor.losses._softened import accurate_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


class CTKD(nn.Module):
    """Curriculum temperature: T² KL(p_T || q_T), teacher to student, at a T that is learned against the student.

    Li et al., "Curriculum Temperature for Knowledge Distillation" (AAAI 2023, arXiv 2211.16231), with one T for all
    samples: T = start + span * sigmoid(t), where t begins at 1. The student's logits get the gradient of `kd` at T; t
    gets that of the loss, through T² and both softmaxes, times -strength, so that a descent in t raises the loss.
    The strength is strength (1 - cos(pi e / ramp)) / 2 in epoch e, which counts from 1, and stays after `ramp` epochs.
    Published is 0.9 times this loss beside a cross-entropy of weight 0.1, as of KD.

    Args:
        start, span: T lies between start and start + span.
        strength: of the reversed gradient, once it is whole; 0 keeps T.
        ramp: epochs until it is.

    Raises:
        InputError: a start or ramp that is not positive, or a span or strength below 0.

    >>> loss = CTKD()
    >>> loss.temperature
    tensor(15.6212, grad_fn=<AddBackward0>)
    >>> loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
    tensor([0.4990], grad_fn=<MulBackward0>)
    """

    t: nn.Parameter
    strength: Tensor

    def __init__(self, *, start: float = 1.0, span: float = 20.0, strength: float = 1.0, ramp: int = 10) -> None:
        super().__init__()
        for name, value in (("start", start), ("ramp", ramp)):
            if not 0 < value < math.inf:
                raise refused(f"{name} of CTKD is {value}; give a positive number.")
        for name, value in (("span", span), ("strength", strength)):
            if not 0 <= value < math.inf:
                raise refused(f"{name} of CTKD is {value}; give 0 or more.")
        self.start: float = start
        self.span: float = span
        self.full_strength: float = strength
        self.ramp: int = ramp
        self.t = nn.Parameter(torch.ones(()))
        self.register_buffer("strength", torch.zeros(()))
        self.start_epoch(0, 1)

    @property
    def temperature(self) -> Tensor:
        """T, a scalar; its gradient is that of the loss as it is, not reversed."""
        return self.start + self.span * self.t.sigmoid()

    def bind(
        self,
        *,
        model: nn.Module | None = None,
        num_samples: int = 0,
        num_classes: int = 0,
        stack: tuple[int, ...] = (),
    ) -> None:
        """Refuse a stack of models, whose students would share their temperature.

        Raises:
            InputError: a stack.
        """
        if stack:
            raise refused("CTKD learns a temperature for one student; train these one by one, or take kd.")

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the strength of this epoch.

        Args:
            epoch: counts from 0.
            epochs: how many there will be; not used.
        """
        share = min((epoch + 1) / self.ramp, 1.0)
        self.strength.fill_(self.full_strength * (1 - math.cos(math.pi * share)) / 2)

    def forward(
        self,
        student_logits: Float[Tensor, "*batch classes"],
        teacher_logits: Float[Tensor, "*batch classes"] | Targets,
        *,
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch"]:
        """The loss of each example.

        Args:
            student_logits: z, shape (..., C).
            teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
            mask: shape (...); False marks examples that give exactly 0 and no gradient.

        Returns:
            Shape (...), in at least float32; less is better.

        Raises:
            InputError: shapes differ, fewer than 2 classes, integer logits, or a record of some classes.
        """
        whole_teacher = whole(teacher_logits)
        if isinstance(whole_teacher, SparseTargets):
            raise sparse.refusal("CTKD", "softens the probabilities of all classes at a temperature that changes")
        student, teacher = prepare(student_logits, whole_teacher, mask)
        # Its value, and the reversed gradient.
        t = self.t.detach() - self.strength * (self.t - self.t.detach())
        temperature = (self.start + self.span * t.sigmoid()).to(student.dtype)
        # A class of the teacher's at -inf adds nothing, and must add no NaN to the temperature's gradient.
        absent = teacher.isneginf()
        finite = teacher.masked_fill(absent, 0.0) / temperature
        log_p = finite.masked_fill(absent, -torch.inf).log_softmax(-1)
        losses = temperature**2 * accurate_kl(log_p, (student / temperature).log_softmax(-1))
        return zero_where_masked(losses, mask)
