"""Decoupled knowledge distillation: the target class and the others, weighed apart."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_labels, check_temperature, prepare, target_of, zero_where_masked
from preceptor.losses._softened import LARGE_TEMPERATURE, accurate_kl, kl_relative_to, log_mean_exp
from preceptor.losses.kd import kd
from preceptor.losses.targets import SparseTargets, Targets, whole


def dkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    labels: Integer[Tensor, "*batch"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Decoupled KD: T² (alpha TCKD + beta NCKD), teacher to student, one value per example.

    Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022, arXiv 2203.08679), equation 7; T² as in
    the authors' code. At temperature T, TCKD is the KL of (p_y, 1 - p_y) and NCKD the KL of the
    distributions over the other classes, so that KL(p_T || q_T) = TCKD + (1 - p_y) NCKD.

    NCKD is 0 with two classes, and where the teacher gives the other classes no probability at all.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        labels: the target class y, integers in [0, C), shape (...); anything where masked.
        alpha: weight of the target-class term.
        beta: weight of the non-target-class term.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, labels that are not integers or
            (except on a GPU, or compiled) not in [0, C), or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> dkd(torch.zeros(1, 3), teacher, torch.tensor([0]), alpha=1.0, beta=2.0, temperature=1.0)
        tensor([0.4510])
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        check_labels(labels, student_logits.shape[:-1])
        options = {"alpha": alpha, "beta": beta, "temperature": temperature}
        return sparse.dkd(student_logits, whole_teacher, labels, **options, mask=mask)
    check_temperature(temperature)
    student, teacher = prepare(student_logits, whole_teacher, mask)
    check_labels(labels, student.shape[:-1])
    target = target_of(labels, mask, student.shape[-1])
    student, teacher = (apart(x, target) for x in (student, teacher))
    target_kl = _target_kl(student, teacher, temperature)
    of_others = others_kl(student, teacher, temperature)
    return zero_where_masked(temperature**2 * alpha * target_kl + beta * of_others, mask)


class Apart(NamedTuple):
    """Logits of the target class and of the others, apart."""

    target: Tensor
    """Shape (..., 1)."""
    others: Tensor
    """Shape (..., C - 1): the last class stands in the target's place. Where all are -inf, the first is 0."""
    none: Tensor
    """Whether all others are -inf, shape (..., 1)."""


def apart(logits: Tensor, target: Tensor) -> Apart:
    """The logits (..., C) of the target class, int64 (...), and of all others."""
    target, last = target.unsqueeze(-1), logits.shape[-1] - 1
    place = target.clamp(max=last - 1)
    kept = torch.where(target == last, logits.gather(-1, place), logits[..., last:])
    others = logits[..., :last].scatter(-1, place, kept)
    none = others.detach().amax(-1, keepdim=True).isneginf()
    others[..., :1].masked_fill_(none, 0.0)  # or NaN would be on the way of a gradient
    return Apart(logits.gather(-1, target), others, none)


def _target_kl(student: Apart, teacher: Apart, temperature: float) -> Tensor:
    """TCKD: the KL of (p_y, 1 - p_y)."""
    if temperature <= LARGE_TEMPERATURE:
        return accurate_kl(*(_target_and_rest(x, temperature) for x in (teacher, student)))
    count = student.others.shape[-1]
    of_target = 1 / torch.full_like(student.target, count + 1)
    base, others = torch.cat([of_target, 1 - of_target], -1), torch.full_like(student.others, 1 / count)
    student_logits, teacher_logits = (
        torch.cat([x.target / temperature, _sum(x, log_mean_exp(x.others / temperature, others))], -1)
        for x in (student, teacher)
    )
    return kl_relative_to(base, student_logits, teacher_logits)


def others_kl(student: Apart, teacher: Apart, temperature: float) -> Tensor:
    """T² NCKD, of the KL among the other classes; 0 where the teacher gives them none, or there is but one."""
    if student.others.shape[-1] == 1:
        return 0 * student.others.squeeze(-1)
    return torch.where(teacher.none.squeeze(-1), 0.0, kd(student.others, teacher.others, temperature=temperature))


def _target_and_rest(logits: Apart, temperature: float) -> Tensor:
    """log (p_y, 1 - p_y), shape (..., 2)."""
    # log(1 - p_y) as a logsumexp over the others: log1p(-p_y) would be log 0 for a saturated student.
    rest = _sum(logits, (logits.others / temperature).logsumexp(-1, keepdim=True))
    return torch.cat([logits.target / temperature, rest], -1).log_softmax(-1)


def _sum(logits: Apart, log_sum: Tensor) -> Tensor:
    """A logsumexp of the others, -inf where all of them are."""
    return torch.where(logits.none, -torch.inf, log_sum)
