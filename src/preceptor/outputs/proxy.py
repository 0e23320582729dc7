"""The proxy teacher: the distribution that a student under PTLoss is really asked to imitate.

Notation, for one example: p teacher, q proxy, eps_{c,m} coefficients, and
s_c(q) = sum_m m eps_{c,m} (1 - q)^(m-1).
PTLoss = sum_c p_c (-log q_c + sum_m eps_{c,m} (1 - q_c)^m) is stationary on the simplex where, for one
multiplier ("level") common to the classes,

    p_c / q_c + p_c s_c(q_c) = level.

The unknown of every solver is the odds p_c / q_c: in it this equation is nearly linear, and it keeps its
relative precision however small p_c is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.ptloss import Coefficients, coefficient_tensor, ptloss

# Rows are solved in blocks whose temporaries stay in cache.
_BLOCK_ENTRIES = 1 << 15
# Roots are found to this relative precision; Newton's last step lands well within it.
_PRECISION = 1e-13
# Newton on the whole system converges in a few steps or not at all.
_NEWTON_STEPS = 20
# Probabilities below this are solved as if they had it; no result depends on it in float64.
_SMALLEST = 1e-300


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
        log_q, residual = _solve(log_p.detach(), eps.detach(), tolerance, max_iterations)
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


# --- solving --------------------------------------------------------------------------------------


def _solve(log_p: Tensor, eps: Tensor, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """log q and the residual of each row of log_p (rows, C); eps is (C, M) or (1, M)."""
    single, convex = eps.shape[-1] == 1, bool((_curvature_margin(eps) >= 0).all())
    log_q, residual = [], []
    for block in log_p.split(max(1, _BLOCK_ENTRIES // log_p.shape[-1])):
        p = block.exp().clamp(min=_SMALLEST)
        if single:
            odds = _odds_by_one_root(p, eps, max_iterations)
        elif convex:
            odds = _odds_by_newton(p, eps)
            # From afar, or where the loss is all but flat, Newton may fail: only those rows pay for the sure way.
            hard = ~(_gradient_at(p, p / odds, eps).abs().amax(-1) <= 1e-3 * tolerance)
            if hard.any():
                odds[hard] = _odds_by_nested_roots(p[hard], eps, max_iterations)
        else:
            odds = _odds_by_fixed_point(p, eps, tolerance, max_iterations)
        log_q.append(block - odds.log())
        residual.append(_gradient_at(p, p / odds, eps).abs().amax(-1))
    return torch.cat(log_q), torch.cat(residual)


def _odds_by_one_root(p: Tensor, eps: Tensor, max_iterations: int) -> Tensor:
    """M = 1: odds_c = level - eps_c p_c, with the one level that makes sum p / odds = 1.

    The unknown is the log of the smallest odds, `base`: level lies between max p (1 + eps) and
    1 + max eps p, so base lies between max (p - gap) and 1. No difference of near numbers is left, and
    bisection in the log crosses thirty decades in seven steps.
    """
    pole = eps[:, 0] * p
    gap = pole.amax(-1, keepdim=True) - pole
    rest = 1 - gap

    def log_deficit(log_base: Tensor) -> tuple[Tensor, Tensor]:
        base = log_base.exp()
        odds = base + gap
        q = p / odds
        # sum q - 1 as sum (q - p), and 1 - odds without forming odds: at eps = -1 and a nearly one-hot
        # teacher the difference sought is far below the rounding of 1.
        excess = (q * (rest - base)).sum(-1, keepdim=True)
        slope = base * (q / odds).sum(-1, keepdim=True) / (1 + excess)
        return -excess.log1p(), slope

    low, high = (p - gap).amax(-1, keepdim=True), torch.ones_like(p[:, :1])
    after_one_step = 1 + (pole * p).sum(-1, keepdim=True) - pole.amax(-1, keepdim=True)
    start = after_one_step.clamp(low, high)
    log_base = _increasing_root(log_deficit, low.log(), high.log(), start.log(), max_iterations, unit=1.0)
    return log_base.exp() + gap


def _odds_by_newton(p: Tensor, eps: Tensor) -> Tensor:
    """Newton on all classes and the level at once, in the log of the odds, from q = p; it may fail.

    Stationarity, F_c = odds_c + p_c s_c - level = 0, and sum q = 1 are linear in the step but for their diagonal: the
    step of the level follows in closed form, and from it that of each class.
    """
    odds, level = torch.ones_like(p), (p * (1 + p * _series(p, eps)[0])).sum(-1, keepdim=True)
    for _ in range(_NEWTON_STEPS):
        q = p / odds
        s, slope = _series(q, eps)
        missed, curvature = odds + p * s - level, 1 - q.square() * slope
        given = q / (odds * curvature)
        step_of_level = (q.sum(-1, keepdim=True) - 1 + (given * missed).sum(-1, keepdim=True)) / given.sum(
            -1, keepdim=True
        )
        step = ((step_of_level - missed) / (odds * curvature)).clamp(-1, 1)
        odds, level = odds * step.exp(), level + step_of_level
        if not (step.abs() > _PRECISION).any():
            break
    return odds


def _odds_by_nested_roots(p: Tensor, eps: Tensor, max_iterations: int) -> Tensor:
    """Any M, PTLoss convex in each q_c: a root in the odds of each class inside a root in the level.

    Convexity makes q_c fall as the level rises. At q = p the classes ask for levels 1 + p s(p), and the
    level that suits them together lies among these; it is also at least p (1 + eps_1), where q_c = 1.
    """
    steepest = p * _weights(eps).abs().sum(-1)
    wanted = 1 + p * _series(p, eps)[0]
    odds = torch.ones_like(p)

    def log_deficit(level: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal odds

        def stationarity(trial: Tensor) -> tuple[Tensor, Tensor]:
            q = p / trial
            s, slope = _series(q, eps)
            return trial + p * s - level, 1 - q.square() * slope

        high = (level + steepest).maximum(p)
        odds = _increasing_root(stationarity, p, high, odds.clamp(p, high), max_iterations)
        q = p / odds
        excess = (q * (1 - odds)).sum(-1, keepdim=True)
        slope = (q / (odds * stationarity(odds)[1])).sum(-1, keepdim=True) / (1 + excess)
        return -excess.log1p(), slope

    high = wanted.amax(-1, keepdim=True)
    low = wanted.amin(-1, keepdim=True).maximum((p * (1 + eps[:, 0])).amax(-1, keepdim=True)).minimum(high)
    start = (p * wanted).sum(-1, keepdim=True).clamp(low, high)
    _increasing_root(log_deficit, low, high, start, max_iterations)
    return odds


def _odds_by_fixed_point(p: Tensor, eps: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Any coefficients: from q = p, steps of at most a half towards a / sum a, where a = p (1 + q s(q)).

    That direction always descends. A trial where the loss is higher, or where the next direction points
    back, has gone too far: it is dropped and the row's step halved. (Far from the minimum only the first
    tells, close to it only the second.) The unknown is the ratio q / p, so that p may be arbitrarily small.
    """
    log_p, table = p.log(), eps.expand(p.shape[-1], -1)
    ratio, direction = torch.ones_like(p), torch.zeros_like(p)
    step, lowest = torch.full_like(p[:, :1], 0.5), torch.full_like(p[:, :1], torch.inf)
    for _ in range(max_iterations):
        trial = ratio + step * direction
        q = p * trial
        pull = (1 + q * _series(q, eps)[0]).clamp(min=_SMALLEST)
        onward = pull / (p * pull).sum(-1, keepdim=True) - trial
        loss = ptloss(q.log(), log_p, coefficients=table).unsqueeze(-1)
        back = (p * direction * onward / trial).sum(-1, keepdim=True) < 0
        too_far = back | (loss > lowest + _PRECISION)
        ratio, direction = torch.where(too_far, ratio, trial), torch.where(too_far, direction, onward)
        step = torch.where(too_far, step / 2, (1.5 * step).clamp(max=0.5))
        lowest = torch.where(too_far, lowest, loss)
        if not (direction.abs() > 0.1 * tolerance * ratio).any():
            break
    return 1 / ratio


def _increasing_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    start: Tensor,
    max_iterations: int,
    unit: float = _SMALLEST,
) -> Tensor:
    """The root in [low, high] of an increasing function, elementwise; `function` gives (value, slope).

    Newton, and bisection wherever Newton leaves the bracket or fails to halve the last step. Steps are
    judged relative to the root or to `unit`, whichever is larger.
    """
    x, last_step = start, high - low
    for _ in range(max_iterations):
        value, slope = function(x)
        low, high = torch.where(value < 0, x, low), torch.where(value > 0, x, high)
        newton = x - value / slope
        step, precision = (newton - x).abs(), _PRECISION * x.abs().clamp(min=unit)
        trusted = (newton >= low) & (newton <= high) & ((2 * step <= last_step) | (step <= precision))
        x, previous = torch.where(trusted, newton, (low + high) / 2), x
        last_step = (x - previous).abs()
        if not (last_step > precision).any():
            break
    return x


# --- the perturbation and its derivatives ---------------------------------------------------------


def _weights(eps: Tensor) -> Tensor:
    """m eps_m, the coefficients of s in powers of 1 - q."""
    return eps * torch.arange(1, eps.shape[-1] + 1, dtype=eps.dtype, device=eps.device)


def _series(q: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """s(q) and its derivative, by Horner's rule."""
    rest = 1 - q
    value = slope = torch.zeros_like(q)
    for weight in reversed(_weights(eps).unbind(-1)):
        slope = slope * rest + value
        value = value * rest + weight
    return value, -slope


def _gradient_at(p: Tensor, q: Tensor, eps: Tensor) -> Tensor:
    """The gradient (sum a) q - a of PTLoss in the logits of a student at q."""
    a = p * (1 + q * _series(q, eps)[0])
    return a.sum(-1, keepdim=True) * q - a


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
        flexibility = ratio if eps.shape[-1] == 1 else ratio / (1 - q.square() * _series(q, eps)[1])
        pulled, given = grad * flexibility, q * flexibility
        grad_stationarity = pulled - given * (pulled.sum(-1, keepdim=True) / given.sum(-1, keepdim=True))
        grad_log_p = grad_eps = None
        if ctx.needs_input_grad[0]:
            s = _series(q, eps)[0]
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


# --- checks ---------------------------------------------------------------------------------------


def _check_logits(teacher_logits: Tensor) -> None:
    if not teacher_logits.is_floating_point():
        raise InputError(f"teacher_logits are {teacher_logits.dtype}; give floating-point logits.")
    if teacher_logits.ndim == 0 or teacher_logits.shape[-1] < 2:
        shape = tuple(teacher_logits.shape)
        raise InputError(f"teacher_logits have shape {shape}; the last dimension must hold at least 2 classes.")


def _coefficient_table(coefficients: Coefficients, teacher_logits: Tensor) -> Tensor:
    """The coefficients in float64, as (C, M) or (1, M), if a proxy with them keeps the teacher's support."""
    try:
        eps = coefficient_tensor(coefficients, num_classes=teacher_logits.shape[-1])
    except ValueError as error:
        raise InputError(str(error)) from None
    table = torch.atleast_2d(eps.to(teacher_logits.device, torch.float64))
    values = table.detach()
    if not values.isfinite().all():
        _refuse(eps, values, (~values.isfinite()).nonzero()[0].tolist(), "give finite numbers")
    margin, at = _minimum_on_unit_interval(lambda q: 1 + q * _series(q, values)[0], values)
    if margin.amin() < -1e-12:
        worst = int(margin.argmin())
        powers = torch.arange(values.shape[-1], device=values.device)
        contribution = _weights(values)[worst] * (1 - at[worst]) ** powers
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


def _curvature_margin(eps: Tensor) -> Tensor:
    """Minimum of 1 - q^2 s'(q), per class: not negative where PTLoss is convex in q_c."""
    return _minimum_on_unit_interval(lambda q: 1 - q.square() * _series(q, eps)[1], eps)[0]


def _minimum_on_unit_interval(
    function: Callable[[Tensor], Tensor], eps: Tensor, points: int = 129
) -> tuple[Tensor, Tensor]:
    """Minimum over [0, 1], and where, of a polynomial per row of eps: the best of ever finer grids.

    `function` maps q of shape (..., classes), as `_series` wants it, to values.
    """
    spacing = torch.linspace(-1, 1, points, dtype=eps.dtype, device=eps.device).unsqueeze(-1)
    at, half_width = torch.full_like(eps[:, 0], 0.5), 0.5
    for _ in range(4):
        grid = (at + half_width * spacing).clamp(0, 1)
        at = grid.gather(0, function(grid).argmin(0, keepdim=True)).squeeze(0)
        half_width *= 2 / (points - 1)
    return function(at), at


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
