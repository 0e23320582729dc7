"""From stored numbers to inputs: divide, subtract the mean, divide by the standard deviation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preceptor.errors import InputError

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


def normalize_of(
    mean: float | Sequence[float], std: float | Sequence[float], *, channels: int, divide_by: float
) -> Normalize:
    """A `Normalize` of one number for all channels, or of one each.

    >>> normalize_of(0.5, [0.2, 0.3], channels=2, divide_by=255.0)
    Normalize(divide_by=255.0, mean=(0.5,), std=(0.2, 0.3))

    Raises:
        InputError: as many numbers as there are no channels, or a divisor that is not positive.
    """
    means, stds = _numbers(mean), _numbers(std)
    for name, numbers in (("mean", means), ("std", stds)):
        if len(numbers) not in (1, channels):
            raise InputError(f"{name} has {len(numbers)} values but the inputs have {channels} channels; give one each")
    if not (divide_by > 0 and all(value > 0 for value in stds)):  # NaN too
        raise InputError(f"divide_by is {divide_by} and std is {stds}; both must be positive")
    return Normalize(divide_by, means, stds)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(float(number) for number in value)
