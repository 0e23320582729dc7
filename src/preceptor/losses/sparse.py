"""Losses from what a record has kept of a teacher: the top k classes, or a sample of k.

From the top k the KL is that of k + 1 outcomes, the last of which is "any other class": never above the KL of all
classes (data processing inequality), with a gradient that is right for the k classes and for the mass of the others
together, and silent about who of these has it. From a sample every sum over classes of p^g times something is replaced
by the sum over the classes that were drawn, each divided by the probability with which it was (Horvitz and Thompson,
1952): unbiased, value and gradient, where nothing else of the teacher is needed than what is stored as a number. The
values may be negative.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses._common import check_floating, check_mask, check_temperature, refused, zero_where_masked
from preceptor.losses._softened import accurate_kl
from preceptor.losses.targets import SampledTargets, SparseTargets, TopKTargets, each

Form = TypeVar("Form", bound=SparseTargets)
_SAME = 1e-6  # relative, of two exponents
_LOST = 0.02  # of a sum of probabilities, more than bfloat16 loses


def kd(
    student_logits: Float[Tensor, "*batch classes"],
    targets: SparseTargets,
    *,
    temperature: float,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`preceptor.losses.kd`: bounded from the top k, unbiased from a sample, at the temperatures of the record."""
    student, targets = _prepared(student_logits, targets, mask)
    losses = _matched(student / temperature, targets, _power(targets, temperature, "kd"))
    return zero_where_masked(temperature**2 * losses, mask)


def ttm(
    student_logits: Float[Tensor, "*batch classes"],
    targets: SparseTargets,
    *,
    temperature: float,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`preceptor.losses.ttm`: bounded from the top k, unbiased from a sample, at the temperatures of the record."""
    student, targets = _prepared(student_logits, targets, mask)
    return zero_where_masked(_matched(student, targets, _power(targets, temperature, "ttm")), mask)


def wttm(
    student_logits: Float[Tensor, "*batch classes"],
    targets: SparseTargets,
    *,
    temperature: float,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`preceptor.losses.wttm`: bounded from the top k at the temperatures of the record; from a sample the gradient is
    unbiased at every temperature, and the value at those of the record (elsewhere U log U, which no student changes, is
    estimated).
    """
    check_temperature(temperature)
    student, targets = _prepared(student_logits, targets, mask)
    if isinstance(targets, SampledTargets) and _place(targets, temperature) is None:
        log_power = targets.log_probs / temperature
        log_total = (log_power - _log_chance(targets)).logsumexp(-1, keepdim=True)
        losses = _estimated(log_power, log_power - log_total, student.log_softmax(-1), targets)
        return zero_where_masked(losses, mask)
    power = _power(targets, temperature, "wttm")
    return zero_where_masked(power.log_total.exp() * _matched(student, targets, power), mask)


def perturbed(
    student_logits: Float[Tensor, "*batch classes"],
    targets: SparseTargets,
    perturbation: Callable[[Tensor, Tensor], Tensor],
    *,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`preceptor.losses.ptloss`: unbiased from a sample.

    Args:
        student_logits, targets, mask: as of the other losses.
        perturbation: of 1 - q and the classes' numbers, each (..., k).
    """
    if not isinstance(targets, SampledTargets):
        raise refused(
            "ptloss perturbs the log-probability of each class, and a record of the top k has not those of all; record "
            "the form 'sampled' or 'dense', or take kd, ttm, wttm or dkd."
        )
    student, targets = _prepared(student_logits, targets, mask)
    log_q = student.log_softmax(-1).gather(-1, targets.ids)
    w = (targets.log_probs - _log_chance(targets)).exp()
    gap = torch.where(targets.log_probs.isneginf(), 0.0, targets.log_probs - log_q)
    return zero_where_masked((w * (gap + perturbation(-torch.expm1(log_q), targets.ids))).sum(-1), mask)


def dkd(
    student_logits: Float[Tensor, "*batch classes"],
    targets: SparseTargets,
    labels: Integer[Tensor, "*batch"],
    *,
    alpha: float,
    beta: float,
    temperature: float,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`preceptor.losses.dkd` at the temperatures of the record: its target term exact, as log p of the label is stored,
    the other one bounded from the top k and unbiased from a sample.
    """
    _check_labels(targets, labels, mask)
    student, targets = _prepared(student_logits, targets, mask)
    power = _power(targets, temperature, "dkd")
    labels = labels if mask is None else torch.where(mask, labels, 0)
    labels = labels.long().unsqueeze(-1)
    assert targets.label_log_probs is not None
    log_q = (student / temperature).log_softmax(-1)
    log_power, log_total = targets.label_log_probs[..., None] * power.g, power.log_total[..., None]
    log_p = (log_power - log_total).clamp(max=0.0)
    others_q = _log_sum(log_q.scatter(-1, labels, -torch.inf))
    target = accurate_kl(torch.cat([log_p, _log_rest(log_p)], -1), torch.cat([log_q.gather(-1, labels), others_q], -1))
    if isinstance(targets, TopKTargets):
        others = _others_of_top_k(log_q, targets, labels, log_power, power)
    else:
        others = _others_of_sample(log_q - others_q, targets, labels, log_total + _log_rest(log_p), power)
    return zero_where_masked(temperature**2 * (alpha * target + beta * others), mask)


def refusal(name: str, does: str) -> ValueError:
    """The error of a loss that cannot do with some classes."""
    return refused(
        f"{name} {does}, of which a record has some alone; record the form 'dense', or take kd, ttm, wttm or dkd."
    )


# -- exponents ---------------------------------------------------------------------------------------------------------


class _Power(NamedTuple):
    """What is known at one exponent g = 1 / T."""

    g: float
    log_total: Tensor
    """log U_g, (...)."""
    log_tail: Tensor
    """From the top k the log of what the others have of it, (...); from a sample nothing of use."""


def _place(targets: SparseTargets, temperature: float) -> int | None:
    """Where among the exponents 1 / T is, -1 for T = 1; None where it is not."""
    if math.isclose(temperature, 1.0, rel_tol=_SAME):
        return -1
    near = (i for i, g in enumerate(targets.powers) if math.isclose(g * temperature, 1.0, rel_tol=_SAME))
    return next(near, None)


def _power(targets: SparseTargets, temperature: float, name: str) -> _Power:
    """What is known at a temperature.

    Raises:
        InputError: nothing is.
    """
    check_temperature(temperature)
    place = _place(targets, temperature)
    if place is None:
        known = ", ".join(f"{1 / g:.4g}" for g in sorted({1.0, *targets.powers}))
        other = ", wttm, which needs none," if isinstance(targets, SampledTargets) else ""
        raise refused(
            f"{name} at temperature {temperature:g} needs the teacher's power sum, which this record of some classes "
            f"has for {known}; take one of these{other} or record the form 'dense'."
        )
    log_total = targets.log_powers[..., place] if place >= 0 else torch.zeros_like(targets.log_probs[..., 0])
    log_tail = log_total
    if isinstance(targets, TopKTargets):
        log_tail = targets.log_tail_powers[..., place] if place >= 0 else targets.log_tail
    return _Power(1 / temperature, log_total, log_tail)


# -- the two forms -----------------------------------------------------------------------------------------------------


def _matched(student: Tensor, targets: SparseTargets, power: _Power) -> Tensor:
    """KL(p_T || q) with T = 1 / g."""
    log_q = student.log_softmax(-1)
    if isinstance(targets, TopKTargets):
        log_p = torch.cat([power.g * targets.log_probs, power.log_tail[..., None]], -1).log_softmax(-1)
        return accurate_kl(log_p, _coarse(log_q, targets.ids))
    log_p = power.g * targets.log_probs - power.log_total[..., None]
    return _estimated(log_p, log_p, log_q, targets)


def _estimated(log_w: Tensor, log_p: Tensor, log_q: Tensor, targets: SparseTargets) -> Tensor:
    """The sum over all classes of w (log p - log q), from a sample."""
    assert isinstance(targets, SampledTargets)
    gap = torch.where(log_w.isneginf(), 0.0, log_p - log_q.gather(-1, targets.ids))
    return ((log_w - _log_chance(targets)).exp() * gap).sum(-1)


def _log_chance(targets: SampledTargets) -> Tensor:
    """log of the probability with which each class was drawn, min(1, r / tau)."""
    log_p, known = targets.log_probs, dict(zip(targets.powers, targets.log_powers.unbind(-1), strict=True))
    known[1.0] = torch.zeros_like(targets.tau)
    parts = torch.stack([g * log_p - known[g][..., None] for g in targets.sizes])
    there = ~log_p.isneginf() & (targets.tau > 0)[..., None]
    log_size = torch.where(there, parts, 0.0).logsumexp(0) - math.log(len(targets.sizes))
    return torch.where(there, log_size - targets.tau[..., None].log(), 0.0).clamp(max=0.0)


def _coarse(log_q: Tensor, ids: Tensor) -> Tensor:
    """Of k + 1 outcomes: the classes `ids`, and any other."""
    return torch.cat([log_q.gather(-1, ids), _log_sum(log_q.scatter(-1, ids, -torch.inf))], -1)


def _others_of_top_k(log_q: Tensor, targets: TopKTargets, labels: Tensor, log_label: Tensor, power: _Power) -> Tensor:
    """The KL among the classes other than the label, of which those outside the top k are one."""
    is_label, tail = targets.ids == labels, power.log_tail[..., None]
    inside = is_label.any(-1, keepdim=True)
    share = torch.where(tail.isneginf(), -torch.inf, log_label - torch.where(tail.isneginf(), 0.0, tail))
    tail = torch.where(inside, tail, tail + _log_rest(share.clamp(max=0.0)))
    teacher = torch.cat([(power.g * targets.log_probs).masked_fill(is_label, -torch.inf), tail], -1)
    student = _coarse(log_q.scatter(-1, labels, -torch.inf), targets.ids)
    alone = teacher.isneginf().all(-1)
    teacher, student = (
        each.masked_fill((alone | each.isneginf().all(-1))[..., None], 0.0) for each in (teacher, student)
    )
    return torch.where(alone, 0.0, accurate_kl(teacher.log_softmax(-1), student.log_softmax(-1)))


def _others_of_sample(
    log_q: Tensor, targets: SparseTargets, labels: Tensor, log_others: Tensor, power: _Power
) -> Tensor:
    """The same, estimated; `log_others` is log of their share of U_g, and `log_q` is given that it is one of them."""
    log_power = (power.g * targets.log_probs).masked_fill(targets.ids == labels, -torch.inf)
    alone = log_others.isneginf()
    log_p = torch.where(alone, -torch.inf, log_power - torch.where(alone, 0.0, log_others))
    return _estimated(log_p, log_p, log_q, targets)


# -- numbers -----------------------------------------------------------------------------------------------------------


def _prepared(student_logits: Tensor, targets: Form, mask: Tensor | None) -> tuple[Tensor, Form]:
    """Both checked and in working precision, harmless where the mask is False."""
    check_floating("student_logits", student_logits)
    if student_logits.shape != targets.shape:
        raise refused(
            f"student_logits have shape {tuple(student_logits.shape)} but the targets stand for "
            f"{tuple(targets.shape)}; give both the same leading shape and the same classes."
        )
    check_mask(mask, student_logits.shape[:-1])
    student = student_logits.to(torch.promote_types(student_logits.dtype, torch.float32))
    if mask is not None:
        student, targets = (
            torch.where(mask[..., None], student, 0.0),
            each(targets, lambda tensor: _blank(tensor, mask)),
        )
    if isinstance(targets, TopKTargets):
        _check_tail(targets)
    return student, targets


def _check_tail(targets: TopKTargets) -> None:
    """Refuse a top k that is not all there is and has no tail, where it can be looked at for next to nothing."""
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    kept = targets.log_probs.float().exp().sum(-1)
    if (targets.log_tail.isneginf() & (kept < 1 - _LOST)).any():
        raise refused(
            f"the top k of a teacher have a probability of {kept.min().item():.3g} together and no tail, and what is "
            "left is no divergence; give the log of the others' probability, log_tail, or record another form."
        )


def _blank(tensor: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.reshape(*mask.shape, *[1] * (tensor.ndim - mask.ndim)), tensor, 0)


def _log_sum(values: Tensor) -> Tensor:
    """logsumexp over the classes, shape (..., 1); where all are -inf, -inf without the gradient of NaN."""
    none = values.isneginf().all(-1, keepdim=True)
    return torch.where(none, -torch.inf, values.masked_fill(none, 0.0).logsumexp(-1, keepdim=True))


def _log_rest(log_p: Tensor) -> Tensor:
    """log(1 - p)."""
    near = log_p > -math.log(2)
    return torch.where(near, (-torch.expm1(torch.where(near, log_p, -1.0))).log(), torch.log1p(-log_p.exp()))


def _check_labels(targets: SparseTargets, labels: Tensor, mask: Tensor | None) -> None:
    """Refuse labels that are not those of which the record has the teacher's probability."""
    if targets.labels is None or targets.label_log_probs is None:
        raise refused("dkd needs the teacher's probability of the label, which this record was not given; take kd.")
    wrong = targets.labels != labels.to(targets.labels)
    wrong = wrong if mask is None else wrong & mask
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise refused(
            f"dkd is given the label {int(labels[place])} of an example that was recorded with "
            f"{int(targets.labels[place])}; give the labels that were recorded (-1: none was), or take kd."
        )
