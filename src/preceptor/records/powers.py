"""Sums of powers of probabilities, of rows as long as a vocabulary: what a form and its scalars have in common."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BLOCK = 2**18  # numbers: a megabyte of float32, which stays in the processor's cache from one step to the next


def blocks_of(log_probs: Tensor) -> list[slice]:
    """The rows (B, C) in blocks small enough to be worked on in the processor's cache.

    >>> blocks_of(torch.zeros(3, 2**17))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    step = max(1, _BLOCK // max(log_probs.shape[-1], 1))
    return [slice(start, start + step) for start in range(0, len(log_probs), step)]


def log_power_sums(log_probs: Tensor, exponents: Sequence[float]) -> Tensor:
    """log sum_c p_c^g for each of G exponents, (..., G), of log-probabilities (..., C) in their dtype; -inf of none.

    An exponential is the dear part: that of twice an exponent that was had already is a square.

    >>> log_power_sums(torch.tensor([0.5, 0.25, 0.25]).log(), (1.0, 2.0)).exp()
    tensor([1.0000, 0.3750])
    """
    largest = log_probs.amax(-1, keepdim=True)
    shift = torch.where(largest.isneginf(), 0.0, largest)
    found = {g: power.sum(-1) for g, power in _powers(log_probs - shift, exponents)}
    return torch.stack([found[g].log() + g * shift.squeeze(-1) for g in exponents], -1)


def _powers(shifted: Tensor, exponents: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """p^g with each exponent g; a tensor is as it is until the next is asked for."""
    left = {*exponents}
    while left:
        g = min(left)
        power = (shifted * g).exp_()
        # On as long as a doubling is to come: 1/4, 1/2, 1 and 2 are one exponential.
        while any(_doublings(g, other) for other in left):
            if g in left:
                left.discard(g)
                yield g, power
            g, power = 2 * g, power.square_()


def _doublings(g: float, other: float) -> bool:
    """Whether `other` is g, or is had of it by doubling."""
    while g < other:
        g *= 2
    return g == other
