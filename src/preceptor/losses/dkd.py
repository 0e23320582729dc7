"""Decoupled knowledge distillation: the target class and the others, weighed apart."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses._common import check_range, check_temperature, kl_divergence, prepare, zero_where_masked


def dkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
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
        ValueError: shapes differ, fewer than 2 classes, integer logits, labels that are not integers or
            (except on a GPU, or compiled) not in [0, C), or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> dkd(torch.zeros(1, 3), teacher, torch.tensor([0]), alpha=1.0, beta=2.0, temperature=1.0)
        tensor([0.4510])
    """
    check_temperature(temperature)
    student, teacher = prepare(student_logits, teacher_logits, mask)
    _check_labels(labels, student.shape[:-1])
    target = (labels if mask is None else torch.where(mask, labels, 0)).long()
    check_range(target, student.shape[-1])
    target = target.unsqueeze(-1)
    teacher_target, teacher_others = _decouple(teacher / temperature, target)
    student_target, student_others = _decouple(student / temperature, target)
    target_kl = kl_divergence(teacher_target, student_target)
    others_kl = kl_divergence(teacher_others, student_others)
    return zero_where_masked(temperature**2 * (alpha * target_kl + beta * others_kl), mask)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 - p_y), shape (..., 2), and the log-probabilities among the other classes (-inf at y)."""
    is_target = target == torch.arange(logits.shape[-1], device=logits.device)
    log_probs = logits.log_softmax(-1)
    log_target = log_probs.gather(-1, target)
    # log(1 - p_y) as a logsumexp over the others: log1p(-p_y) would be log 0 for a saturated student.
    log_rest = log_probs.masked_fill(is_target, -torch.inf).logsumexp(-1, keepdim=True)
    log_others = logits.masked_fill(is_target, -torch.inf).log_softmax(-1)
    # With nothing left beside the target there is no distribution to match: an empty one adds 0.
    log_others = torch.where(log_rest.isneginf(), -torch.inf, log_others)
    return torch.cat([log_target, log_rest], -1), log_others


def _check_labels(labels: Tensor, shape: torch.Size) -> None:
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}; give integer class indices, e.g. labels.long().")
    if labels.shape != shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; give one per example, {tuple(shape)}.")
