"""From stored numbers to inputs: divide, subtract the mean, divide by the standard deviation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from preceptor.data.dataset import JSON


@dataclass(frozen=True)
class Normalize:
    """`(values / divide_by - mean) / std` in float32; mean and std per channel, or one number for all.

    A batch-level transform: channels along axis 1. `mean` and `std` are in units of `values / divide_by`.

    >>> Normalize(divide_by=255.0, mean=(0.5,), std=(0.25,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[-2.,  2.]]]])
    """

    divide_by: float = 1.0
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __call__(self, inputs: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (inputs.ndim - 2)
        mean, std = (_constants(tuple(each), inputs.device).reshape(shape) for each in (self.mean, self.std))
        return (inputs.to(torch.float32) / self.divide_by).sub_(mean).div_(std)

    def as_json(self) -> "dict[str, JSON]":
        """What `Data.preprocessing` keeps beside the weights."""
        return {"divide_by": self.divide_by, "mean": list(self.mean), "std": list(self.std)}


@functools.lru_cache(maxsize=64)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, sent there once."""
    return torch.tensor(values, dtype=torch.float32, device=device)
