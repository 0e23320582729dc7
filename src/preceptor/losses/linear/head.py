"""What makes logits of hidden states: a matrix, and what some language models do before and after it."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.losses._closed import Kernel, Plain, Rows
from preceptor.losses._common import check_floating, refused


@dataclass(frozen=True)
class Head:
    """The last layer of a language model: logits = softcap tanh(scale (h W^T + b) / softcap).

    A weight that is tied to the embedding, frozen, or a function of parameters (LoRA merged by `base + up @ down`) is
    given as it stands; gradients go where autograd sends them.

    Args:
        weight: W, shape (V, H), as `nn.Linear` has it.
        bias: b, shape (V,).
        scale: what the model multiplies its logits by (Cohere's `logit_scale`; one over Granite's `logits_scaling`).
        softcap: the largest logit (Gemma's `final_logit_softcapping`); None for no bound.

    Raises:
        InputError: shapes that do not fit, integer weights, a scale that is 0 or not finite, a softcap not above 0.

    Example:
        >>> Head(torch.eye(2), scale=3.0, softcap=2.0).logits(torch.tensor([[1.0, 0.0]]))
        tensor([[1.8103, 0.0000]])
    """

    weight: Float[Tensor, "vocabulary hidden"]
    bias: Float[Tensor, " vocabulary"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        check_floating("weight", self.weight)
        if self.weight.ndim != 2 or self.weight.shape[0] < 2:
            raise refused(
                f"weight has shape {tuple(self.weight.shape)}; give that of a linear layer, (V, H), V above 1."
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise refused(
                f"bias has shape {tuple(self.bias.shape)}; give one number per token, {self.weight.shape[:1]}."
            )
        if self.scale == 0 or not math.isfinite(self.scale):
            raise refused(f"scale is {self.scale}; give what the model multiplies its logits by (1.0 changes nothing).")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise refused(f"softcap is {self.softcap}; give the model's largest logit, or None where it has no bound.")

    @property
    def size(self) -> int:
        """V, padding included."""
        return self.weight.shape[0]

    @property
    def bend(self) -> "Bend":
        """What comes after the matrix."""
        return Bend(float(self.scale), self.softcap)

    def logits(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocabulary"]:
        """All logits at once, which is what a fused loss never holds."""
        return self.bend.of(torch.nn.functional.linear(hidden, self.weight, self.bias))


def as_head(head: Tensor | Head) -> Head:
    """A weight alone is a head."""
    if isinstance(head, Head):
        return head
    if isinstance(head, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Head(head)
    raise refused(f"a head is given as {type(head).__name__}; give its weight, shape (V, H), or a Head.")


class Bend(NamedTuple):
    """Scale and soft cap."""

    scale: float = 1.0
    softcap: float | None = None

    def of(self, raw: Tensor) -> Tensor:
        """Logits of what the matrix gives."""
        scaled = raw if self.scale == 1 else raw * self.scale
        return scaled if self.softcap is None else (scaled / self.softcap).tanh() * self.softcap

    def pulled(self, rows: Rows, logits: Tensor) -> Rows:
        """Gradients in the logits as those in what the matrix gave."""
        if self.softcap is not None:
            rows.gradient.mul_(logits.div(self.softcap).square_().neg_().add_(1))
        return rows if self.scale == 1 else rows._replace(slope=rows.slope * self.scale)


STRAIGHT = Bend()


def bent(kernel: Kernel, plain: Plain, student: Bend, teacher: Bend) -> tuple[Kernel, Plain]:
    """A loss of logits as one of what the matrices give."""
    if student == teacher == STRAIGHT:
        return kernel, plain
    return (
        partial(_bent_kernel, kernel=kernel, of_student=student, of_teacher=teacher),
        partial(_bent_plain, plain=plain, of_student=student, of_teacher=teacher),
    )


def _bent_kernel(
    student: Tensor, teacher: Tensor, shared: Tensor | None, *, kernel: Kernel, of_student: Bend, of_teacher: Bend
) -> Rows:
    logits = of_student.of(student)
    return of_student.pulled(kernel(logits, of_teacher.of(teacher), shared), logits)


def _bent_plain(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    shared: Tensor | None,
    *,
    plain: Plain,
    of_student: Bend,
    of_teacher: Bend,
) -> Tensor:
    return plain(of_student.of(student), of_teacher.of(teacher), mask, shared)
