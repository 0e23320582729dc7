"""What the tests of the fused losses share: each with options, hidden states, heads, and the logits loss beside it."""

from typing import Any

import torch
from torch import Tensor

from preceptor import losses
from preceptor.losses import linear
from preceptor.losses.linear import Head

OPTIONS: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 1.5},
    "ttm": {"temperature": 1.5},
    "wttm": {"temperature": 1.5},
    "ptloss": {"coefficients": torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)},
    "reverse_kl": {"temperature": 1.5},
    "jsd": {"beta": 0.3, "temperature": 1.5},
    "skew_kl": {"skew": 0.1, "temperature": 1.5},
    "tvd": {"temperature": 1.5},
}
DIVERGENCES = ["reverse_kl", "jsd", "skew_kl", "tvd"]


def fused(name: str, *args: Any, **options: Any) -> Tensor:
    """The fused loss with the options of this file."""
    return getattr(linear, name)(*args, **OPTIONS[name], **options)


def plain(name: str, student_logits: Tensor, teacher: Any) -> Tensor:
    """The loss of logits, one value per token."""
    return getattr(losses, name)(student_logits, teacher, **OPTIONS[name])


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed numbers."""
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def pair(tokens: tuple[int, ...] = (2, 5), vocabulary: int = 11, dtype: torch.dtype = torch.float64):
    """Hidden states and heads of a student of width 4 and a teacher of width 6."""
    student = normal(*tokens, 4, dtype=dtype), normal(vocabulary, 4, seed=1, dtype=dtype)
    teacher = normal(*tokens, 6, seed=2, dtype=dtype), normal(vocabulary, 6, seed=3, dtype=dtype)
    return student, teacher


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of the sum of a loss."""
    return torch.autograd.grad(loss.sum(), inputs)


def trained(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Leaves that want a gradient."""
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def bent_head(vocabulary: int, width: int, seed: int) -> Head:
    """One with all that a head may have."""
    weight, bias = normal(vocabulary, width, seed=seed), normal(vocabulary, seed=seed + 1)
    return Head(weight, bias, scale=0.7, softcap=2.5)
