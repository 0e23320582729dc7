"""The mathematics of `preceptor.losses.divergences`: each as a kernel, and as the formula that autograd is given."""

import math
from functools import partial

import torch
from torch import Tensor

from preceptor.losses._closed import Kernel, Plain, Rows, divergence, softened
from preceptor.losses._common import check_temperature, prepare, refused, zero_where_masked
from preceptor.losses._softened import accurate_kl


def reverse_kl_form(temperature: float) -> tuple[Kernel, Plain]:
    """Of `reverse_kl`."""
    check_temperature(temperature)
    return partial(_reverse_kernel, temperature=temperature), partial(_reverse_plain, temperature=temperature)


def jsd_form(beta: float, normalize: bool, temperature: float) -> tuple[Kernel, Plain]:
    """Of `jsd`."""
    check_temperature(temperature)
    if not 0 <= beta <= 1:
        raise refused(f"beta is {beta}; give the teacher's share of the mixture, a number from 0 to 1.")
    if beta == 0:
        return skew_kl_form(0.0, temperature)
    if beta == 1:
        return reverse_kl_form(temperature)
    options = {"beta": beta, "scale": 1 / (beta * (1 - beta)) if normalize else 1.0, "temperature": temperature}
    return partial(_jsd_kernel, **options), partial(_jsd_plain, **options)


def skew_kl_form(skew: float, temperature: float) -> tuple[Kernel, Plain]:
    """Of `skew_kl`."""
    check_temperature(temperature)
    if not 0 <= skew < 1:
        raise refused(f"skew is {skew}; give the teacher's share of the mixture, a number from 0 to below 1.")
    options = {"skew": skew, "temperature": temperature}
    return partial(_skew_kernel, **options), partial(_skew_plain, **options)


def tvd_form(temperature: float) -> tuple[Kernel, Plain]:
    """Of `tvd`."""
    check_temperature(temperature)
    return partial(_tvd_kernel, temperature=temperature), partial(_tvd_plain, temperature=temperature)


# -- kernels -----------------------------------------------------------------------------------------------------------


def _reverse_kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, temperature: float) -> Rows:
    x, y = softened(student, temperature), softened(teacher, temperature)
    gap = x - y
    q, p = x.exp_(), y.exp_()
    q_sum, p_sum = q.sum(-1, keepdim=True), p.sum(-1, keepdim=True)
    q = q.div_(q_sum)
    terms = gap.sub_((q_sum / p_sum).log()).mul_(q).masked_fill_(q == 0, 0.0)
    value = terms.sum(-1, keepdim=True)
    gradient = terms.sub_(q.mul_(value)).masked_fill_(value.isinf(), 0.0)
    return _rows(value, gradient, 1.0, 1 / temperature)


def _jsd_kernel(
    student: Tensor, teacher: Tensor, shared: Tensor | None, *, beta: float, scale: float, temperature: float
) -> Rows:
    q, p = (softened(logits, temperature).softmax(-1) for logits in (student, teacher))
    of_q = _log_share(q, p, beta).mul_(q)
    of_p = _log_share(p, q, 1 - beta).mul_(p)
    k = of_q.sum(-1, keepdim=True)
    value = beta * of_p.sum(-1, keepdim=True) + (1 - beta) * k
    return _rows(value, of_q.sub_(q.mul_(k)), scale, scale * (1 - beta) / temperature)


def _log_share(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """log(a / m) with m = (1 - weight) a + weight b; 0 where a is."""
    ratio = (b / a).clamp_(max=torch.finfo(a.dtype).max)
    return ratio.mul_(weight).add_(1 - weight).log_().neg_().masked_fill_(a == 0, 0.0)


def _skew_kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, skew: float, temperature: float) -> Rows:
    x, y = softened(student, temperature), softened(teacher, temperature)
    if skew == 0:
        found = divergence(x, y)
        return Rows(found.value, found.gradient, 1.0, 1 / (temperature * found.total))
    q, p = x.softmax(-1), y.softmax(-1)
    value = _log_share(p, q, 1 - skew).mul_(p).sum(-1, keepdim=True)
    mixture = skew * p + (1 - skew) * q
    r = (q / mixture).mul_(p).mul_(1 - skew).masked_fill_(mixture == 0, 0.0)
    return _rows(value, q.mul_(r.sum(-1, keepdim=True)).sub_(r), 1.0, 1 / temperature)


def _tvd_kernel(student: Tensor, teacher: Tensor, shared: Tensor | None, *, temperature: float) -> Rows:
    q, p = (softened(logits, temperature).softmax(-1) for logits in (student, teacher))
    gap = q - p
    value = gap.abs().sum(-1, keepdim=True) / 2
    signs = gap.sign_()
    return _rows(value, signs.sub_((q * signs).sum(-1, keepdim=True)).mul_(q), 1.0, 0.5 / temperature)


def _rows(value: Tensor, gradient: Tensor, weight: float, slope: float) -> Rows:
    return Rows(value.squeeze(-1), gradient, weight, torch.full_like(value, slope))


# -- formulas for autograd ---------------------------------------------------------------------------------------------


def _reverse_plain(
    student: Tensor, teacher: Tensor, mask: Tensor | None, shared: Tensor | None, *, temperature: float
) -> Tensor:
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    infinite = (log_p.isneginf() & (log_q.exp() > 0)).any(-1, keepdim=True)
    log_p = torch.where(infinite | log_p.isneginf(), log_q.detach(), log_p)
    losses = torch.where(infinite.squeeze(-1), torch.inf, accurate_kl(log_q, log_p))
    return zero_where_masked(losses, mask)


def _jsd_plain(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    shared: Tensor | None,
    *,
    beta: float,
    scale: float,
    temperature: float,
) -> Tensor:
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    losses = beta * accurate_kl(log_p, log_m) + (1 - beta) * accurate_kl(log_q, log_m)
    return zero_where_masked(scale * losses, mask)


def _skew_plain(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    shared: Tensor | None,
    *,
    skew: float,
    temperature: float,
) -> Tensor:
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    return zero_where_masked(accurate_kl(log_p, log_q if skew == 0 else _log_mixture(log_p, log_q, skew)), mask)


def _tvd_plain(
    student: Tensor, teacher: Tensor, mask: Tensor | None, shared: Tensor | None, *, temperature: float
) -> Tensor:
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    return zero_where_masked((log_q.exp() - log_p.exp()).abs().sum(-1) / 2, mask)


def _log_probs(student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    student, teacher = prepare(student, teacher, mask)
    return (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q); where both are 0, -inf without the gradient of NaN."""
    neither = log_p.isneginf() & log_q.isneginf()
    log_p, log_q = torch.where(neither, 0.0, log_p), torch.where(neither, 0.0, log_q)
    return torch.where(neither, -torch.inf, torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share)))
