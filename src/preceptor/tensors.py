"""What objectives and transforms of an output do to their inputs before they compute."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses._common import check_floating, check_mask, check_range


def prepare(logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits in at least float32 and labels, checked against each other, harmless where the mask is False."""
    if labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}: "
            "give one label per example, the logits' shape without its last dimension."
        )
    if labels.dtype != torch.int64:
        raise InputError(f"labels are {labels.dtype}: give class numbers, converted with labels.long().")
    logits, labels = prepare_logits(logits, mask), blank(labels, mask)
    check_range(labels, logits.shape[-1])
    return logits, labels


def prepare_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits in at least float32, harmless where the mask is False.

    It is the masked inputs that are replaced, not the results: a NaN times zero is still a NaN.
    """
    check_floating("logits", logits)
    check_mask(mask, logits.shape[:-1])
    return blank(at_least_float32(logits), mask)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it has that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def blank(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """The tensor with zeros where the mask, which may lack its last dimensions, is False."""
    if mask is None:
        return tensor
    keep = mask.reshape(mask.shape + (1,) * (tensor.ndim - mask.ndim))
    return torch.where(keep, tensor, 0)


def at_label(values: Float[Tensor, "*batch classes"], labels: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The entry of each example's own class."""
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
