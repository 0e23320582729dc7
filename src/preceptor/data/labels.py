"""Labels that are checked: class numbers, and nothing else."""

from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError


def check_labels(
    labels: Any, num_classes: int | None = None, *, index: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The labels as int64, once each is known to be a class number.

    Args:
        labels: numbers of any shape, samples along the first axis.
        num_classes: the labels must lie in [0, num_classes); without it they must only not be negative.
        index: the samples' positions, for the error sentence; 0, 1, ... without it.
        mask: False where a label is padding and may be anything.

    Raises:
        InputError: a fractional, NaN, negative or too large label, with its sample and value.

    >>> check_labels([0, 2, 7], 3)
    Traceback (most recent call last):
    preceptor.errors.InputError: the label of sample 2 is 7; with 3 classes labels are integers from 0 to 2
    """
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the labels are not numbers ({error}); number the classes from 0") from error
    known = torch.ones_like(labels, dtype=torch.bool) if mask is None else expanded(mask.bool(), labels)
    wanted = "labels are integers from 0"
    if num_classes is not None:
        wanted = f"with {num_classes} classes {wanted} to {num_classes - 1}"
    if labels.is_floating_point() or labels.is_complex():
        if labels.is_floating_point():
            _refuse(labels, (labels != labels.round()) & known, wanted, index)
        raise InputError(f"the labels have dtype {labels.dtype}, not an integer one: {wanted}; convert with .long()")
    labels = labels.to(torch.int64)
    bad = (labels < 0) if num_classes is None else (labels < 0) | (labels >= num_classes)
    _refuse(labels, bad & known, wanted, index)
    return labels


def _refuse(labels: Tensor, bad: Tensor, wanted: str, index: Tensor | None) -> None:
    """Name the first bad label."""
    if not bad.any():
        return
    first = bad.nonzero()[0]
    row = int(first[0]) if len(first) else 0
    sample = row if index is None else int(index[row])
    raise InputError(f"the label of sample {sample} is {labels[tuple(first)].item()}; {wanted}")


def expanded(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of the first axes, spread over the axes of `like` that follow."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim)).expand_as(like)
