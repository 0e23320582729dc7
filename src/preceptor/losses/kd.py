"""Knowledge distillation by softened probabilities, plain and with standardised logits."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._closed import Rows, closed_form, divergence, softened
from preceptor.losses._common import check_temperature, prepare, zero_where_masked
from preceptor.losses._softened import softened_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def kd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 4.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Knowledge distillation: T² KL(p_T || q_T), teacher to student, one value per example.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
    Both sides are softened, p_T = softmax(v / T) and q_T = softmax(z / T); T² keeps the gradient
    T (q_T - p_T) of the same order at every temperature. The loss is never negative, and right to 1 % also
    where student and teacher are near and T is large.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> kd(torch.zeros(2, 2), teacher, temperature=2.0)
        tensor([0.4438, 0.0000])
    """
    teacher = whole(teacher_logits)
    if isinstance(teacher, SparseTargets):
        return sparse.kd(student_logits, teacher, temperature=temperature, mask=mask)
    check_temperature(temperature)
    kernel, plain = partial(_kernel, temperature=temperature), partial(_plain, temperature=temperature)
    return closed_form(student_logits, teacher, mask, kernel=kernel, plain=plain)


def _kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, temperature: float) -> Rows:
    found = divergence(softened(student, temperature), softened(teacher, temperature))
    return Rows(found.value, found.gradient, temperature**2, temperature / found.total)


def _plain(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, shared: Tensor | None, *, temperature: float
) -> Tensor:
    student, teacher = prepare(student_logits, teacher_logits, mask)
    losses = softened_kl(student / temperature, teacher / temperature, temperature)
    return zero_where_masked(temperature**2 * losses, mask)


def standardized_kd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 2.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Logit-standardised KD: T² KL(p_T || q_T) of z-scored logits, teacher to student, one value per example.

    Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024), algorithm 1. Each row of
    logits becomes (z - mean) / (std + 1e-7) with the unbiased standard deviation, so the student need
    only match the teacher's logits up to shift and scale.

    Classes at which the teacher is -inf stay at -inf and out of its mean and standard deviation. A
    constant row is all zeros; its gradient is that of a row with standard deviation 1.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0, the base temperature applied after standardisation.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 1.0, 2.0]])
        >>> standardized_kd(10 * teacher - 7, teacher) < 1e-6
        tensor([True])
    """
    teacher = whole(teacher_logits)
    if isinstance(teacher, SparseTargets):
        raise sparse.refusal("standardized_kd", "standardises the teacher's logits of all classes")
    check_temperature(temperature)
    student, teacher = prepare(student_logits, teacher, mask)
    # Gradient to the scores in closed form, from there to the logits by autograd.
    return zero_where_masked(kd(_standardize(student), _standardize(teacher), temperature=temperature), mask)


def _standardize(logits: Tensor) -> Tensor:
    finite = ~logits.isneginf()
    count = finite.sum(-1, keepdim=True)
    # Subtracting the maximum changes nothing but makes a constant row exactly zero, whatever its level.
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    mean = torch.where(finite, shifted, 0.0).sum(-1, keepdim=True) / count
    deviation = torch.where(finite, shifted - mean, 0.0)
    variance = deviation.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    std = torch.where(variance > 0, variance, 1.0).sqrt()
    return torch.where(finite, deviation / (std + 1e-7), -torch.inf)
