"""Transforms of a teacher's output: temperature, vector scaling, the proxy teacher of PTLoss."""

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses._common import sent
from preceptor.outputs.proxy import proxy_teacher
from preceptor.schema import Proxy, Temperature, Transform, VectorScaling

__all__ = ["transformed"]


def transformed(
    logits: Float[Tensor, "*batch classes"], transform: Transform | None
) -> Float[Tensor, "*batch classes"]:
    """A teacher's output after a transform; None leaves it as it is.

    One function for the live, the assessed and the recorded teacher, so that all three are one. A class of
    probability 0 keeps it.

    Args:
        logits: logits or log-probabilities (-inf allowed), `(..., C)`, in any floating dtype.
        transform: what to do to them.

    Returns:
        Log-probabilities `(..., C)`, in at least float32; without a transform the logits as they are.

    Raises:
        InputError: the transform is for another number of classes, or its coefficients allow no proxy.

    >>> certain = torch.tensor([2.0, 0.0]) * torch.tensor(3.0).log()
    >>> transformed(certain, Temperature(temperature=2.0)).exp()
    tensor([0.7500, 0.2500])
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if transform is None:
        return wide
    if isinstance(transform, Temperature):
        return (wide / transform.temperature).log_softmax(-1)
    if isinstance(transform, VectorScaling):
        scale, bias = (_per_class(values, wide) for values in (transform.scale, transform.bias))
        return scaled(wide.log_softmax(-1), scale, bias)
    assert isinstance(transform, Proxy)
    return proxy_teacher(wide, torch.tensor(transform.coefficients, dtype=torch.float64, device=wide.device)).log_probs


def scaled(log_probs: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Vector scaling; -inf stays -inf whatever the scale."""
    support = ~log_probs.isneginf()
    logits = torch.where(support, log_probs, 0.0) * scale + bias
    return torch.where(support, logits, -torch.inf).log_softmax(-1)


def _per_class(values: tuple[float, ...], like: Tensor) -> Tensor:
    if len(values) != like.shape[-1]:
        raise InputError(
            f"the vector scaling is for {len(values)} classes and the teacher has {like.shape[-1]}; "
            "fit it on the same classes"
        )
    return sent(torch.tensor(values, dtype=like.dtype), like.device)
