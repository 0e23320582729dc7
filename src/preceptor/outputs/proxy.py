"""The proxy teacher: the distribution that a student under PTLoss is really asked to imitate.

Notation, for one example: p teacher, q proxy, eps_{c,m} coefficients, and
s_c(q) = sum_m m eps_{c,m} (1 - q)^(m-1).
PTLoss = sum_c p_c (-log q_c + sum_m eps_{c,m} (1 - q_c)^m) is stationary on the simplex where, for one
multiplier ("level") common to the classes,

    p_c / q_c + p_c s_c(q_c) = level.

The unknown of every solver is the odds p_c / q_c: in it this equation is nearly linear, and it keeps its
relative precision however small p_c is.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.ptloss import Coefficients, coefficient_tensor
from preceptor.outputs.perturbation import is_mild, minimum_on_unit_interval, series, weights
from preceptor.outputs.solver import solve


class ProxyTeacher(NamedTuple):
    """What `proxy_teacher` returns.

    Attributes:
        log_probs: log of the proxy, shape (..., C).
        residual: largest entry of PTLoss's gradient in the logits of a student at the proxy, shape (...).
        converged: whether the residual is within tolerance, shape (...).
    """

    log_probs: Float[Tensor, "*batch classes"]
    residual: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]


def proxy_teacher(
    teacher_logits: Float[Tensor, "*batch classes"],
    coefficients: Coefficients,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
    strict: bool = True,
) -> ProxyTeacher:
    """The distribution that minimises PTLoss over the simplex: PTLoss's optimal student, per example.

    Zhang et al., "Knowledge Distillation with Perturbed Loss: From a Vanilla Teacher to a Proxy Teacher"
    (arXiv 2305.05010, KDD 2024). The proxy has zero probability exactly where the teacher has, and is
    differentiable, to any order, in the coefficients and in the teacher's logits.

    With M = 1 it is one scalar root per example; where PTLoss is convex in each q_c, a scalar root around
    a scalar root per class; both find the global minimum. Elsewhere a damped fixed point, started from
    the teacher, descends to a stationary point, which need not be the lowest.

    Args:
        teacher_logits: logits or log-probabilities (-inf allowed), shape (..., C).
        coefficients: eps, shape (M,) shared by the classes or (C, M) one row per class; m counts from 1.
        tolerance: the largest residual that counts as converged.
        max_iterations: limit of every iteration.
        strict: raise where an example has not converged; if False, read `converged`.

    Returns:
        The log-probabilities, residuals and convergence of the proxies. Computed in float64, returned in
        the dtype of the logits but at least float32.

    Raises:
        InputError: wrong shapes; coefficients that are not finite, or for which the proxy could leave the
            teacher's support, that is 1 + q s_c(q) < 0 somewhere on [0, 1] (with M = 1: eps < -1); or, if
            strict, no convergence.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([0.7, 0.2, 0.1]).log()
        >>> proxy_teacher(teacher, [2.0]).log_probs.exp()
        tensor([0.8416, 0.1092, 0.0492])
    """
    _check_logits(teacher_logits)
    eps = _coefficient_table(coefficients, teacher_logits)
    log_p = teacher_logits.double().log_softmax(-1).reshape(-1, teacher_logits.shape[-1])
    with torch.no_grad():
        log_q, residual = solve(log_p.detach(), eps.detach(), tolerance, max_iterations)
    converged = residual <= tolerance
    if strict:
        _check_converged(log_p, converged, residual, tolerance, max_iterations)
    log_q = _ImplicitGradient.apply(log_p, eps, log_q)
    leading, dtype = teacher_logits.shape[:-1], torch.promote_types(teacher_logits.dtype, torch.float32)
    return ProxyTeacher(
        log_q.reshape(teacher_logits.shape).to(dtype),
        residual.reshape(leading).to(dtype),
        converged.reshape(leading),
    )


class _ImplicitGradient(torch.autograd.Function):
    """The solved log q, with its derivative in log p and eps by the implicit function theorem.

    From k_c dq_c = dG_c - dlevel with G_c = p_c / q_c + p_c s_c, curvature k_c = p_c (1 / q_c^2 - s_c'),
    and sum dq = 0. The backward is made of differentiable operations of inputs and output, so that
    derivatives of every order follow.
    """

    @staticmethod
    def forward(log_p: Tensor, eps: Tensor, log_q: Tensor) -> Tensor:
        return log_q.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        log_p, eps, log_q = ctx.saved_tensors
        support, grad, log_ratio = _on_support(log_p, log_q, grads[0])
        p, q, ratio = log_p.exp(), log_q.exp(), log_ratio.exp()
        # dlog q_c / dG_c; times q_c it is 1 / k_c. With M = 1 the curvature is that of the logarithm alone.
        flexibility = ratio if eps.shape[-1] == 1 else ratio / (1 - q.square() * series(q, eps)[1])
        pulled, given = grad * flexibility, q * flexibility
        grad_stationarity = pulled - given * (pulled.sum(-1, keepdim=True) / given.sum(-1, keepdim=True))
        grad_log_p = grad_eps = None
        if ctx.needs_input_grad[0]:
            s = series(q, eps)[0]
            grad_log_p = torch.where(support, (1 / ratio + p * s) * grad_stationarity, 0.0)
        if ctx.needs_input_grad[1]:
            power, columns = p * grad_stationarity, []
            for m in range(1, eps.shape[-1] + 1):  # times m (1 - q)^(m - 1)
                columns.append(m * power.sum_to_size(1 if len(eps) == 1 else eps[:, 0].shape).reshape(len(eps), 1))
                power = power * (1 - q) if m < eps.shape[-1] else power
            grad_eps = torch.cat(columns, -1)
        return grad_log_p, grad_eps, None


def _on_support(log_p: Tensor, log_q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the teacher has any probability, and there the gradient and the log of q / p; 0 elsewhere."""
    support = ~log_p.isneginf()
    if support.all():
        return support, grad, log_q - log_p
    log_ratio = torch.where(support, log_q - log_p.clamp(min=torch.finfo(log_p.dtype).min), 0.0)
    return support, torch.where(support, grad, 0.0), log_ratio


def _check_logits(teacher_logits: Tensor) -> None:
    if not teacher_logits.is_floating_point():
        raise InputError(f"teacher_logits are {teacher_logits.dtype}; give floating-point logits.")
    if teacher_logits.ndim == 0 or teacher_logits.shape[-1] < 2:
        shape = tuple(teacher_logits.shape)
        raise InputError(f"teacher_logits have shape {shape}; the last dimension must hold at least 2 classes.")


def _coefficient_table(coefficients: Coefficients, teacher_logits: Tensor) -> Tensor:
    """The coefficients in float64, as (C, M) or (1, M), if a proxy with them keeps the teacher's support."""
    eps = coefficient_tensor(coefficients, num_classes=teacher_logits.shape[-1])
    table = torch.atleast_2d(eps.to(teacher_logits.device, torch.float64))
    values = table.detach()
    if not values.isfinite().all():
        _refuse(eps, values, (~values.isfinite()).nonzero()[0].tolist(), "give finite numbers")
    if is_mild(values):
        return table
    margin, at = minimum_on_unit_interval(lambda q: 1 + q * series(q, values)[0], values)
    if margin.amin() < -1e-12:
        worst = int(margin.argmin())
        powers = torch.arange(values.shape[-1], device=values.device)
        contribution = weights(values)[worst] * (1 - at[worst]) ** powers
        remedy = (
            f"the proxy would leave the teacher's support, since 1 + q s(q) falls to {margin[worst]:.4g} at "
            f"q = {at[worst]:.4g}; raise it until that is at least 0 (with M = 1: at least -1)"
        )
        _refuse(eps, values, [worst, int(contribution.argmin())], remedy)
    return table


def _refuse(eps: Tensor, table: Tensor, place: list[int], remedy: str) -> None:
    row, column = place
    owner = "every class" if eps.ndim == 1 else f"class {row}"
    raise InputError(f"coefficient m = {column + 1} of {owner} is {table[row, column]:.6g}; {remedy}.")


def _check_converged(log_p: Tensor, converged: Tensor, residual: Tensor, tolerance: float, max_iterations: int) -> None:
    failed = int((~converged).sum())
    if failed:
        broken = log_p.isnan().any(-1)
        if broken.any():
            raise InputError(
                f"teacher_logits are NaN in row {_first(broken)} (such rows: {int(broken.sum())}); "
                "drop them or repair the model that wrote them."
            )
        raise InputError(
            f"proxy_teacher did not converge on {failed} of {converged.numel()} examples in {max_iterations} "
            f"iterations (largest residual {residual.amax():.3g}, tolerance {tolerance:.3g}); raise "
            "max_iterations, or pass strict=False and read `converged`."
        )


def _first(wrong: Tensor) -> int | tuple[int, ...]:
    """Where a boolean tensor is first true: an index, or a tuple of them in a stack."""
    place = wrong.nonzero()[0].tolist()
    return place[0] if len(place) == 1 else tuple(place)
