"""How a model's logits become the distribution that it is read as."""

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.tensors import at_least_float32


def clip_distribution(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Log-probabilities of a teacher trained with `mse(on="logit")`: clip to [0, 1], then renormalise.

    Square loss drives the logits themselves, not their softmax, to the class probabilities. A row without a
    positive logit becomes uniform.

    Args:
        logits: the teacher's logits, shape (..., C).

    Returns:
        Log-probabilities, shape (..., C), in at least float32; -inf where the probability is 0.

    >>> import torch
    >>> clip_distribution(torch.tensor([[0.5, 1.5, -0.2], [-1.0, -2.0, 0.0]])).exp()
    tensor([[0.3333, 0.6667, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    """
    clipped = at_least_float32(logits).clamp(0, 1)
    clipped = torch.where(clipped.sum(-1, keepdim=True) > 0, clipped, torch.ones_like(clipped))
    return (clipped / clipped.sum(-1, keepdim=True)).log()


def read_logits(logits: Tensor, distribution: str = "softmax", temperature: float = 1.0) -> Tensor:
    """A teacher's logits, or log-probabilities, as its `distribution` and `temperature` say."""
    if distribution == "clip":
        return clip_distribution(logits)
    return logits if temperature == 1.0 else logits.float() / temperature
