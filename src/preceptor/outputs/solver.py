"""Solving for the proxy teacher: the odds p_c / q_c at which PTLoss is stationary (`preceptor.outputs.proxy`)."""

from collections.abc import Callable

import torch
from torch import Tensor

from preceptor.losses.ptloss import ptloss
from preceptor.outputs.perturbation import curvature_margin, gradient_at, is_mild, series, weights

# Rows are solved in blocks whose temporaries stay in cache.
_BLOCK_ENTRIES = 1 << 15
# Roots are found to this relative precision; Newton's last step lands well within it.
_PRECISION = 1e-13
# Newton on the whole system converges in a few steps or not at all.
_NEWTON_STEPS = 20
# Probabilities below this are solved as if they had it; no result depends on it in float64.
_SMALLEST = 1e-300


def solve(log_p: Tensor, eps: Tensor, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """log q and the residual of each row of log_p (rows, C); eps is (C, M) or (1, M)."""
    single, convex = eps.shape[-1] == 1, is_mild(eps) or bool((curvature_margin(eps) >= 0).all())
    log_q, residual = [], []
    for block in log_p.split(max(1, _BLOCK_ENTRIES // log_p.shape[-1])):
        p = block.exp().clamp(min=_SMALLEST)
        if single:
            odds = _odds_by_one_root(p, eps, max_iterations)
        elif convex:
            odds = _odds_by_newton(p, eps)
            # From afar, or where the loss is all but flat, Newton may fail: only those rows pay for the sure way.
            hard = ~(gradient_at(p, p / odds, eps).abs().amax(-1) <= 1e-3 * tolerance)
            if hard.any():
                odds[hard] = _odds_by_nested_roots(p[hard], eps, max_iterations)
        else:
            odds = _odds_by_fixed_point(p, eps, tolerance, max_iterations)
        log_q.append(block - odds.log())
        residual.append(gradient_at(p, p / odds, eps).abs().amax(-1))
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
    odds, level = torch.ones_like(p), (p * (1 + p * series(p, eps)[0])).sum(-1, keepdim=True)
    for _ in range(_NEWTON_STEPS):
        q = p / odds
        s, slope = series(q, eps)
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
    steepest = p * weights(eps).abs().sum(-1)
    wanted = 1 + p * series(p, eps)[0]
    odds = torch.ones_like(p)

    def log_deficit(level: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal odds

        def stationarity(trial: Tensor) -> tuple[Tensor, Tensor]:
            q = p / trial
            s, slope = series(q, eps)
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
        pull = (1 + q * series(q, eps)[0]).clamp(min=_SMALLEST)
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
