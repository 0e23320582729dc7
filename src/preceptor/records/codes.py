"""How classes and log-probabilities are written down: ids or one bit a class, floats or steps between two numbers."""

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError

STEPS = 254
"""Of a log-probability in 8 bits, between the smallest and the largest of its row; the code 0 is minus infinity."""


def pack_classes(ids: Tensor, num_classes: int) -> Tensor:
    """Classes in ascending order (B, k): as they are in 16 or 32 bits, or one bit for each of the C classes, uint8.

    Whichever takes less.

    >>> pack_classes(torch.tensor([[1, 2, 8]]), 10)
    tensor([[ 96, 128]], dtype=torch.uint8)
    >>> pack_classes(torch.tensor([[1]]), 17).dtype
    torch.uint16
    """
    if not _as_bits(ids.shape[-1], num_classes):
        return ids.to(torch.uint16 if num_classes <= 2**16 else torch.int32)
    there = torch.zeros(len(ids), num_classes, dtype=torch.bool).scatter_(-1, ids, True)
    return torch.from_numpy(np.packbits(there.numpy(), axis=-1))


def unpack_classes(packed: Tensor, k: int, num_classes: int) -> Tensor:
    """The classes again, int64 (B, k).

    Raises:
        InputError: they are not k in every row.
    """
    if not _as_bits(k, num_classes):
        return packed.long()
    there = np.unpackbits(packed.numpy(), axis=-1, count=num_classes)
    found = np.flatnonzero(there)
    if len(found) != len(packed) * k:
        raise InputError(f"rows of a record hold other numbers of classes than {k}; it is damaged, record anew")
    return torch.from_numpy((found % num_classes).reshape(len(packed), k))


def _as_bits(k: int, num_classes: int) -> bool:
    return -(-num_classes // 8) < k * (2 if num_classes <= 2**16 else 4)


def encode(log_probs: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log-probabilities (B, k) between two numbers of their row as the nearest of the steps between these, uint8."""
    low, high = low[:, None].double(), high[:, None].double()
    place = (log_probs.double() - low) / (high - low).clamp(min=1e-30) * STEPS
    return torch.where(log_probs.isneginf(), 0.0, place.clamp(0, STEPS).round() + 1).to(torch.uint8)


def decode(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The log-probabilities again, float32."""
    share = (codes.float() - 1) / STEPS
    return torch.where(codes == 0, -torch.inf, low[:, None] + share * (high - low)[:, None])
