"""Systematic sampling with probabilities proportional to size: k classes of each row, unbiased whatever is summed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def sizes_of(log_probs: Tensor, sizes: Sequence[float], powers: Sequence[float], log_powers: Tensor) -> Tensor:
    """The size of each class: the mean of p^g / U_g over the exponents `sizes`; they sum to 1.

    Args:
        log_probs: of some classes or all, (..., k).
        sizes: exponents g, each 1 or one of `powers`.
        powers, log_powers: log U_g of all classes, (..., G).
    """
    known = {1.0: torch.zeros_like(log_powers[..., 0])} | dict(zip(powers, log_powers.unbind(-1), strict=True))
    return torch.stack([(g * log_probs - known[g][..., None]).exp() for g in sizes]).mean(0)


def draw(sizes: Tensor, k: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """k classes of each row, of size r with probability min(1, r / tau), in ascending order.

    Systematic sampling (Madow 1949; Tillé, "Sampling Algorithms", 2006) in the order of the classes; those of
    probability 1 are taken first, so that no rounding can leave one out. Rows with k classes or fewer that have a size
    at all are filled up with others, at tau = 0.

    Args:
        sizes: (B, C), not negative.
        k: fewer than C.
        uniform: (B,), in (0, 1).

    Returns:
        Classes, int64 (B, k), and the thresholds tau, (B,).
    """
    tau = threshold(sizes, k)[:, None]
    certain = (sizes >= tau) & (sizes > 0)
    # In double precision: small chances would be lost in the sum of all before them, and with them what is unbiased.
    cumulated = (sizes.double() / tau).masked_fill_(certain | (tau == 0), 0.0).cumsum(-1)
    # Their sum is a whole number, whatever was rounded.
    last = cumulated[:, -1:].clone()
    steps = cumulated.mul_(last.round() / last.clamp(min=0.5)).sub_(uniform[:, None]).floor_()
    chosen = certain
    chosen[:, 1:] |= steps[:, 1:] > steps[:, :-1]
    chosen[:, 0] |= steps[:, 0] > -1
    return _first(chosen, k), tau.squeeze(-1)


def _first(chosen: Tensor, k: int) -> Tensor:
    """The places (B, k) of k ones in each row, ascending; where there are fewer, the first of the zeros fill it up."""
    if bool((chosen.sum(-1) == k).all()):
        return chosen.nonzero()[:, 1].reshape(-1, k)
    order = torch.sort(chosen.to(torch.uint8), dim=-1, descending=True, stable=True).indices
    return order[:, :k].sort(-1).values


def threshold(sizes: Tensor, k: int) -> Tensor:
    """tau with sum_c min(1, r_c / tau) = k, (B,), float64; 0 where k classes or fewer have a size."""
    largest, places = sizes.topk(k)
    others = sizes.scatter(-1, places, 0.0).sum(-1, keepdim=True).double()
    # The sum of what is no larger than the h-th largest, from the smallest up, so that small ones keep their digits.
    largest = largest.double()
    rest = (others + largest.flip(-1).cumsum(-1)).flip(-1)
    tau = rest / torch.arange(k, 0, -1, dtype=torch.float64)
    below = (largest < tau).to(torch.uint8)
    below[:, -1] = 1  # it is; a rest too small to be seen beside the largest hides that
    found = tau.gather(-1, below.argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where((sizes > 0).sum(-1) > k, found, 0.0)


def uniforms(seed: int, ids: Tensor, view: int) -> Tensor:
    """One number in (0, 1) for each sample, float64: a hash of seed, id and view, whatever the order and the batch.

    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), a
    counter-based generator.

    >>> uniforms(0, torch.tensor([3, 5]), 0)[1] == uniforms(0, torch.tensor([5]), 0)[0]
    tensor(True)
    """
    state = _mixed(np.asarray([seed % 2**64], np.uint64))
    state = _mixed(state ^ np.asarray([view], np.uint64))
    bits = _mixed(state ^ ids.numpy().astype(np.uint64)) >> np.uint64(12)
    return torch.from_numpy((bits.astype(np.float64) + 0.5) / 2**52)


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
