"""KL of softened probabilities: never negative, and right to the last digits where the two are near."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses._common import kl_divergence

# From here on the rounding of the plain gradient, 1e-6 T in units of the logits, is too much. Below, that gradient is
# kept to the bit, so that what has been trained can be trained again.
LARGE_TEMPERATURE = 16.0


def softened_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    temperature: float,
    classes: Bool[Tensor, "*batch classes"] | None = None,
) -> Float[Tensor, "*batch"]:
    """KL(p_T || q_T), without the factor T², of logits that have been divided by the temperature.

    `classes` is False where both are -inf.
    """
    if temperature <= LARGE_TEMPERATURE or teacher.dtype == torch.float64:
        return accurate_kl(teacher.log_softmax(-1), student.log_softmax(-1))
    there = torch.ones_like(teacher) if classes is None else classes.to(teacher)
    return kl_relative_to(uniform(there), student, teacher)


def accurate_kl(
    log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(p || q) of log-probabilities: the plain sum's gradient, but a value that no cancellation has left over.

    In float64 the plain sum has digits enough.
    """
    if log_p.dtype == torch.float64:
        return kl_divergence(log_p, log_q)
    plain, accurate = kl_divergence(log_p, log_q), _terms(log_p.detach(), log_q.detach()).sum(-1)
    # Infinite where a student has no probability for a class of its teacher: then there is nothing to correct.
    return plain + torch.where(accurate.isposinf(), 0.0, accurate - plain.detach())


def entropy(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """The entropy of the probabilities, a class of none adding 0; 0 where there is no class at all."""
    none = logits.isneginf().all(-1)
    log_p = torch.where(none[..., None], 0.0, logits).log_softmax(-1)
    return torch.where(none, 0.0, -(log_p.exp() * torch.where(log_p.isneginf(), 0.0, log_p)).sum(-1))


def kl_relative_to(
    base: Float[Tensor, "*batch classes"],
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
) -> Float[Tensor, "*batch"]:
    """KL(p || q) where p is base exp(teacher) and q is base exp(student), both divided by their sum.

    If the base is near to both, their densities in it are near 1, and the logs of these near 0, where float32 has
    digits that it lacks near log(1 / classes).
    """
    log_p, log_q = (logits - log_mean_exp(logits, base) for logits in (teacher, student))
    return (base * _terms(log_p, log_q)).sum(-1)


def uniform(classes: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """The same probability for each class that is 1, none for those that are 0."""
    return classes / classes.sum(-1, keepdim=True)


def log_mean_exp(values: Float[Tensor, "*batch classes"], weights: Float[Tensor, "*batch classes"]) -> Tensor:
    """The log of the mean of exp(values) under weights that sum to 1, shape (..., 1); exact near 0."""
    top = values.detach().amax(-1, keepdim=True)
    below = values - torch.where(top.isneginf(), 0.0, top)
    excess = (weights * below.expm1()).sum(-1, keepdim=True)
    near = excess > -0.5
    far = (below + weights.log()).logsumexp(-1, keepdim=True)
    return top + torch.where(near, torch.where(near, excess, 0.0).log1p(), far)


def _terms(
    log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch classes"]:
    """p log(p / q) + q - p of each class: none is negative, and as p and q have one sum, these sum to the KL.

    Where p and q are near, the three all but cancel: with g = log(p / q) they are p (g - 1 + exp(-g)), of which the
    first powers of g are taken (the next is 4e-10 of the sum at the border).
    """
    absent = log_p.isneginf()
    gap = torch.where(absent, 0.0, log_p - log_q)
    near = (gap.abs() < 0.02) & ~absent
    p, q, g = log_p.exp(), log_q.exp(), torch.where(near, gap, 0.0)
    series = g.square() / 2 * (1 - g / 3 * (1 - g / 4 * (1 - g / 5)))
    return torch.where(near, p * series, p * gap + (q - p))
