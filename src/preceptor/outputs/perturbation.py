"""What PTLoss adds to a KL, per class: the polynomial s(q), and where it keeps the loss convex.

s_c(q) = sum_m m eps_{c,m} (1 - q)^(m-1); coefficients are (C, M), or (1, M) where the classes share them.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def weights(eps: Tensor) -> Tensor:
    """m eps_m, the coefficients of s in powers of 1 - q."""
    return eps * torch.arange(1, eps.shape[-1] + 1, dtype=eps.dtype, device=eps.device)


def series(q: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """s(q) and its derivative, by Horner's rule."""
    rest = 1 - q
    value = slope = torch.zeros_like(q)
    for weight in reversed(weights(eps).unbind(-1)):
        slope = slope * rest + value
        value = value * rest + weight
    return value, -slope


def gradient_at(p: Tensor, q: Tensor, eps: Tensor) -> Tensor:
    """The gradient (sum a) q - a of PTLoss in the logits of a student at q."""
    a = p * (1 + q * series(q, eps)[0])
    return a.sum(-1, keepdim=True) * q - a


def is_mild(eps: Tensor) -> bool:
    """Whether no m eps_m is below -1, those of the logarithm itself.

    Then 1 + q s(q) >= (1 - q)^M and 1 - q^2 s'(q) >= 0 on [0, 1]: a proxy keeps the teacher's support, and PTLoss is
    convex in each q_c, without a search for the minimum.
    """
    return bool((weights(eps) >= -1).all())


def curvature_margin(eps: Tensor) -> Tensor:
    """Minimum of 1 - q^2 s'(q), per class: not negative where PTLoss is convex in q_c."""
    return minimum_on_unit_interval(lambda q: 1 - q.square() * series(q, eps)[1], eps)[0]


def minimum_on_unit_interval(
    function: Callable[[Tensor], Tensor], eps: Tensor, points: int = 129
) -> tuple[Tensor, Tensor]:
    """Minimum over [0, 1], and where, of a polynomial per row of eps: the best of ever finer grids.

    `function` maps q of shape (..., classes), as `series` wants it, to values.
    """
    spacing = torch.linspace(-1, 1, points, dtype=eps.dtype, device=eps.device).unsqueeze(-1)
    at, half_width = torch.full_like(eps[:, 0], 0.5), 0.5
    for _ in range(4):
        grid = (at + half_width * spacing).clamp(0, 1)
        at = grid.gather(0, function(grid).argmin(0, keepdim=True)).squeeze(0)
        half_width *= 2 / (points - 1)
    return function(at), at
