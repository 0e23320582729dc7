"""Decoupled knowledge distillation: the target class and the others, weighed apart."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_labels, check_temperature, prepare, target_of, zero_where_masked
from preceptor.losses._softened import (
    LARGE_TEMPERATURE,
    accurate_kl,
    kl_relative_to,
    log_mean_exp,
    softened_kl,
    uniform,
)
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
    is_target = target.unsqueeze(-1) == torch.arange(student.shape[-1], device=student.device)
    student, teacher = student / temperature, teacher / temperature
    target_kl = _target_kl(student, teacher, is_target, temperature)
    of_others = others_kl(student, teacher, is_target, temperature)
    return zero_where_masked(temperature**2 * (alpha * target_kl + beta * of_others), mask)


def _target_kl(student: Tensor, teacher: Tensor, is_target: Tensor, temperature: float) -> Tensor:
    """TCKD: the KL of (p_y, 1 - p_y)."""
    if temperature <= LARGE_TEMPERATURE:
        return accurate_kl(_target_and_rest(teacher, is_target), _target_and_rest(student, is_target))
    others = uniform((~is_target).to(student))
    of_target = 1 / torch.full_like(student[..., :1], student.shape[-1])
    base = torch.cat([of_target, 1 - of_target], -1)
    student, teacher = (
        torch.cat([_at_target(x, is_target), _of_others(lambda x: log_mean_exp(x, others), x, is_target)], -1)
        for x in (student, teacher)
    )
    return kl_relative_to(base, student, teacher)


def others_kl(student: Tensor, teacher: Tensor, is_target: Tensor, temperature: float) -> Tensor:
    """NCKD: the KL among the other classes, of logits divided by the temperature; 0 where the teacher gives them no
    probability.
    """
    student, teacher = _others(student, is_target), _others(teacher, is_target)
    alone = teacher.isneginf().all(-1)
    # No distribution is left to match. Uniform ones stand in, so that no NaN is on the way of a gradient.
    student, teacher = (x.masked_fill(x.isneginf().all(-1, keepdim=True), 0.0) for x in (student, teacher))
    return torch.where(alone, 0.0, softened_kl(student, teacher, temperature, ~is_target))


def _target_and_rest(logits: Tensor, is_target: Tensor) -> Tensor:
    """log (p_y, 1 - p_y), shape (..., 2)."""
    log_probs = logits.log_softmax(-1)
    # log(1 - p_y) as a logsumexp over the others: log1p(-p_y) would be log 0 for a saturated student.
    log_rest = _of_others(lambda others: others.logsumexp(-1, keepdim=True), log_probs, is_target)
    return torch.cat([_at_target(log_probs, is_target), log_rest], -1)


def _at_target(values: Tensor, is_target: Tensor) -> Tensor:
    return values.gather(-1, is_target.int().argmax(-1, keepdim=True))


def _others(values: Tensor, is_target: Tensor) -> Tensor:
    """The values of the other classes, -inf at the target."""
    return values.masked_fill(is_target, -torch.inf)


def _of_others(log_sum: Callable[[Tensor], Tensor], values: Tensor, is_target: Tensor) -> Tensor:
    """A logsumexp of the other classes; where all are -inf, -inf without the gradient of NaN that it would have."""
    others = _others(values, is_target)
    none = others.isneginf().all(-1, keepdim=True)
    return torch.where(none, -torch.inf, log_sum(others.masked_fill(none, 0.0)))
