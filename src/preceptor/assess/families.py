"""Families of transforms: parameters as one flat vector, where they start and end, and what they do."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from preceptor.outputs.proxy import proxy_teacher
from preceptor.outputs.temperature import COLDEST, HOTTEST, temperature_bounds
from preceptor.outputs.transform import scaled
from preceptor.schema import Proxy, Temperature, Transform, VectorScaling

# The proxy's coefficients stay where it is unique and keeps the teacher's support: eps_m >= -1/m for all m
# makes 1 + q s(q) >= (1 - q)^M >= 0 on [0, 1] and the loss convex. With M > 1 a tenth of the logarithm's own
# coefficients 1/m is left, as without it the loss is flat near q = 1. Above 10 a proxy hardly changes any more.
_SHARE_OF_LOG = 0.9
_LARGEST_COEFFICIENT = 10.0
_LARGEST_BIAS = 20.0


@runtime_checkable
class Family(Protocol):
    def box(self, log_probs: Tensor) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """The parameters that change nothing, and the bounds of each, for a teacher's log-probabilities (N, C)."""
        ...

    def apply(self, log_probs: Tensor, parameters: Tensor) -> Tensor:
        """The transformed log-probabilities, differentiable in the parameters."""
        ...

    def transform(self, parameters: np.ndarray, num_classes: int) -> Transform:
        """The parameters as a transform that can be stored."""
        ...


class _Temperature:
    """One parameter, log T."""

    def box(self, log_probs: Tensor) -> tuple[np.ndarray, list[tuple[float, float]]]:
        return np.zeros(1), [temperature_bounds(log_probs)]

    def apply(self, log_probs: Tensor, parameters: Tensor) -> Tensor:
        return (log_probs / parameters.exp()).log_softmax(-1)

    def transform(self, parameters: np.ndarray, num_classes: int) -> Transform:
        return Temperature(temperature=math.exp(parameters[0]))


class _VectorScaling:
    """C scales, then C biases."""

    def box(self, log_probs: Tensor) -> tuple[np.ndarray, list[tuple[float, float]]]:
        num_classes = log_probs.shape[-1]
        start = np.concatenate([np.ones(num_classes), np.zeros(num_classes)])
        scale, bias = (1 / HOTTEST, 1 / COLDEST), (-_LARGEST_BIAS, _LARGEST_BIAS)
        return start, [scale] * num_classes + [bias] * num_classes

    def apply(self, log_probs: Tensor, parameters: Tensor) -> Tensor:
        return scaled(log_probs, *parameters.chunk(2))

    def transform(self, parameters: np.ndarray, num_classes: int) -> Transform:
        scale, bias = parameters.reshape(2, num_classes).tolist()
        return VectorScaling(scale=tuple(scale), bias=tuple(bias))


@dataclass(frozen=True)
class _Proxy:
    """The coefficients, (M,) or (C, M)."""

    degree: int
    classwise: bool

    def box(self, log_probs: Tensor) -> tuple[np.ndarray, list[tuple[float, float]]]:
        rows = log_probs.shape[-1] if self.classwise else 1
        share = 1.0 if self.degree == 1 else _SHARE_OF_LOG
        bounds = [(-share / m, _LARGEST_COEFFICIENT) for m in range(1, self.degree + 1)]
        return np.zeros(rows * self.degree), bounds * rows

    def apply(self, log_probs: Tensor, parameters: Tensor) -> Tensor:
        return proxy_teacher(log_probs, self._table(parameters)).log_probs

    def transform(self, parameters: np.ndarray, num_classes: int) -> Transform:
        table = self._table(torch.from_numpy(parameters)).tolist()
        return Proxy(coefficients=tuple(map(tuple, table)) if self.classwise else tuple(table))

    def _table(self, parameters: Tensor) -> Tensor:
        return parameters.reshape(-1, self.degree) if self.classwise else parameters


FAMILIES: dict[str, Family] = {
    "temperature": _Temperature(),
    "vector": _VectorScaling(),
    "proxy": _Proxy(1, classwise=False),
    "proxy-classwise": _Proxy(1, classwise=True),
    "proxy-5": _Proxy(5, classwise=False),
    "proxy-5-classwise": _Proxy(5, classwise=True),
}
