"""Transformed teacher matching: temperature on the teacher only."""

from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._closed import Rows, closed_form, divergence, softened
from preceptor.losses._common import check_temperature, prepare, zero_where_masked
from preceptor.losses._softened import accurate_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def ttm(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 4.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Transformed teacher matching: KL(p_T || q), teacher to student, no T², one value per example.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (arXiv 2402.11148,
    ICLR 2024), equation 9. Only the teacher is softened: p_T = softmax(v / T), which is the power
    transform p^(1/T) normalised; q = softmax(z). Gradient in the student's logits: q - p_T.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0; the paper tunes the exponent gamma = 1 / T.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> ttm(torch.zeros(2, 2), teacher, temperature=2.0)
        tensor([0.1109, 0.0000])
    """
    teacher = whole(teacher_logits)
    if isinstance(teacher, SparseTargets):
        return sparse.ttm(student_logits, teacher, temperature=temperature, mask=mask)
    check_temperature(temperature)
    kernel, plain = partial(_ttm_kernel, temperature=temperature), partial(_ttm_plain, temperature=temperature)
    return closed_form(student_logits, teacher, mask, kernel=kernel, plain=plain)


def wttm(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 4.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Weighted TTM: U KL(p_T || q), teacher to student, no T², one value per example.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (arXiv 2402.11148,
    ICLR 2024), section 4. The weight U = sum_c p_c^(1/T) is the power sum of the un-softened teacher:
    1 where the teacher is certain, C^(1 - 1/T) where it is uniform (T >= 1), and never divided by its
    batch mean. Gradient in the student's logits: U q - p^(1/T).

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0; the paper tunes the exponent gamma = 1 / T.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> wttm(torch.zeros(2, 2), teacher, temperature=2.0)
        tensor([0.1424, 0.0000])
    """
    teacher = whole(teacher_logits)
    if isinstance(teacher, SparseTargets):
        return sparse.wttm(student_logits, teacher, temperature=temperature, mask=mask)
    check_temperature(temperature)
    kernel, plain = partial(_wttm_kernel, temperature=temperature), partial(_wttm_plain, temperature=temperature)
    return closed_form(student_logits, teacher, mask, kernel=kernel, plain=plain)


def _ttm_kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, temperature: float) -> Rows:
    found = divergence(softened(student, 1.0), softened(teacher, temperature))
    return Rows(found.value, found.gradient, 1.0, 1 / found.total)


def _wttm_kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, temperature: float) -> Rows:
    sharp = softened(teacher, 1.0).exp_().sum(-1, keepdim=True)
    found = divergence(softened(student, 1.0), softened(teacher, temperature))
    share = sharp.pow_(-1 / temperature)  # U = found.total * share
    return Rows(found.value, found.gradient, (found.total * share).squeeze(-1), share)


def _ttm_plain(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, shared: Tensor | None, *, temperature: float
) -> Tensor:
    student, teacher = prepare(student_logits, teacher_logits, mask)
    log_p = (teacher / temperature).log_softmax(-1)
    return zero_where_masked(accurate_kl(log_p, student.log_softmax(-1)), mask)


def _wttm_plain(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, shared: Tensor | None, *, temperature: float
) -> Tensor:
    student, teacher = prepare(student_logits, teacher_logits, mask)
    log_power = teacher.log_softmax(-1) / temperature
    weight = log_power.logsumexp(-1).exp()
    losses = weight * accurate_kl(log_power.log_softmax(-1), student.log_softmax(-1))
    return zero_where_masked(losses, mask)
