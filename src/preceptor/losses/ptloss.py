"""Perturbed distillation loss: KL with the first coefficients of its Maclaurin series changed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._closed import Rows, closed_form, divergence, softened
from preceptor.losses._common import check_inputs, prepare, refused, sent, zero_where_masked
from preceptor.losses._softened import accurate_kl
from preceptor.losses.targets import SparseTargets, Targets, whole

Coefficients = Float[Tensor, "*classes degree"] | Sequence[float] | Sequence[Sequence[float]]


def ptloss(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    coefficients: Coefficients,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Perturbed loss: KL(p || q) + sum_c p_c sum_m eps_{c,m} (1 - q_c)^m at T = 1, one value per example.

    Zhang et al., "Knowledge Distillation with Perturbed Loss: From a Vanilla Teacher to a Proxy Teacher"
    (arXiv 2305.05010, KDD 2024). Because -log q = sum_m (1 - q)^m / m, eps_{c,m} perturbs the m-th
    coefficient of that series. The teacher's entropy is subtracted, so coefficients of zero give KL, which
    is never negative; the whole loss may be. With a_c = p_c (1 + q_c sum_m m eps_{c,m} (1 - q_c)^(m-1)),
    the gradient in the student's logits is (sum a) q - a.

    Args:
        student_logits: z, shape (..., C); q = softmax(z).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        coefficients: eps, shape (M,) shared by the classes or (C, M) one row per class; m counts from 1.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or coefficients of another shape.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> ptloss(student, teacher, coefficients=[0.0])
        tensor([0.3278])
        >>> ptloss(student, teacher, coefficients=[1.0])
        tensor([0.8278])
    """
    teacher = whole(teacher_logits)
    if isinstance(teacher, SparseTargets):
        given = coefficient_tensor(coefficients, num_classes=teacher.num_classes).to(student_logits)
        of = lambda rest, ids: _power_series(rest, given if given.ndim == 1 else given[ids])  # noqa: E731
        return sparse.perturbed(student_logits, teacher, of, mask=mask)
    check_inputs(student_logits, teacher, mask)
    eps = sent(coefficient_tensor(coefficients, num_classes=student_logits.shape[-1]), student_logits.device)
    return closed_form(student_logits, teacher, mask, kernel=_kernel, plain=_plain, shared=eps)


def coefficient_tensor(coefficients: Coefficients, *, num_classes: int) -> Tensor:
    """The coefficients as a tensor of shape (M,) or (C, M), checked."""
    eps = coefficients if isinstance(coefficients, Tensor) else torch.tensor(coefficients)
    shared = eps.ndim == 1
    per_class = eps.ndim == 2 and eps.shape[0] == num_classes
    if not (shared or per_class) or eps.shape[-1] == 0:
        raise refused(
            f"coefficients have shape {tuple(eps.shape)}; give (M,) shared by the classes or "
            f"({num_classes}, M) one row per class, with M at least 1."
        )
    return eps


def _kernel(student: Tensor, teacher: Tensor, shared: Tensor | None) -> Rows:
    assert shared is not None
    eps = shared.to(student.dtype)
    found = divergence(softened(student, 1.0), softened(teacher, 1.0))
    q = student.softmax(-1)
    orders = torch.arange(1, eps.shape[-1] + 1, dtype=eps.dtype, device=eps.device)
    perturbation = _power_series(1 - q, eps)
    slope = _polynomial(1 - q, orders * eps)
    value = found.value + (found.p * perturbation).sum(-1) / found.total.squeeze(-1)
    # a = p (1 + q s): the gradient is that of the KL and (sum p q s) q - p q s
    extra = slope.mul_(q).mul_(found.p)
    gradient = found.gradient.add_(q.mul_(extra.sum(-1, keepdim=True))).sub_(extra)
    return Rows(value, gradient, 1.0, 1 / found.total)


def _plain(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, shared: Tensor | None) -> Tensor:
    assert shared is not None
    student, teacher = prepare(student_logits, teacher_logits, mask)
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    perturbation = _power_series(-torch.expm1(log_q), shared.to(student.dtype))
    losses = accurate_kl(log_p, log_q) + (log_p.exp() * perturbation).sum(-1)
    return zero_where_masked(losses, mask)


def _power_series(base: Float[Tensor, "*batch classes"], eps: Tensor) -> Float[Tensor, "*batch classes"]:
    """sum_m eps_m base^m for m = 1..M."""
    return _polynomial(base, eps) * base


def _polynomial(base: Float[Tensor, "*batch classes"], eps: Tensor) -> Float[Tensor, "*batch classes"]:
    """sum_m eps_m base^(m-1) for m = 1..M, by Horner's rule."""
    *lower, last = eps.unbind(-1)
    total = torch.zeros_like(base) + last
    for coefficient in reversed(lower):
        total = total * base + coefficient
    return total
