"""How a model's logits become the distribution that it is read as."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.outputs.transform import transformed
from preceptor.schema import Transform
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


def read_logits(
    logits: Float[Tensor, "*batch classes"],
    distribution: str = "softmax",
    temperature: float | Sequence[float] = 1.0,
    transform: Transform | None = None,
) -> Float[Tensor, "*batch classes"]:
    """What a student sees of a teacher that gives these logits: as the distribution that they stand for, softened,
    transformed, in this order.

    One function for the live, the tabulated, the assessed and the stored teacher, so that all of them are one.

    Args:
        logits: the model's own, or log-probabilities, shape (..., C); (M, ..., C) for M models with a temperature each.
        distribution: what they stand for: `softmax`, `clip` (`clip_distribution`), or `probabilities` that they are.
        temperature: divides them (post-hoc calibration).
        transform: done last (`transformed`).

    Returns:
        Logits or log-probabilities, shape (..., C), in at least float32; the logits as they are where nothing is to do.

    Raises:
        InputError: the transform is for another number of classes, or its coefficients allow no proxy.

    >>> import torch
    >>> read_logits(torch.tensor([[4.0, 0.0], [4.0, 0.0]]), temperature=[1.0, 2.0])
    tensor([[4., 0.],
            [2., 0.]])
    """
    seen = logits
    if distribution == "clip":
        seen = clip_distribution(logits)
    elif distribution == "probabilities":  # as they were rounded, they may sum to a little more or less than 1
        wide = at_least_float32(logits)
        seen = (wide / wide.sum(-1, keepdim=True)).log()
    if not isinstance(temperature, float | int):
        wide = at_least_float32(seen)
        seen = wide / wide.new_tensor(temperature).reshape(-1, *[1] * (wide.ndim - 1))
    elif temperature != 1:
        seen = at_least_float32(seen) / temperature
    return seen if transform is None else transformed(seen, transform)
