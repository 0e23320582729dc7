"""Labels that are checked: class numbers, and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError


def check_labels(
    labels: Any,
    num_classes: int | None = None,
    *,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """The labels as int64, once each is known to be a class number.

    Args:
        labels: numbers of any shape, samples along the first axis.
        num_classes: the labels must lie in [0, num_classes); without it they must only not be negative.
        index: the samples' positions, for the error sentence; 0, 1, ... without it.
        mask: False where a label is padding and may be anything.
        signed: they may be negative, too.

    Raises:
        InputError: a label that is no whole number, negative or too large, with its sample and value.

    >>> check_labels([0, 2, 7], 3)
    Traceback (most recent call last):
    preceptor.errors.InputError: the label of sample 2 is 7; with 3 classes labels are integers from 0 to 2
    """
    wanted = "labels are integers from 0"
    if num_classes is not None:
        wanted = f"with {num_classes} classes {wanted} to {num_classes - 1}"
    refuse_masked(labels, "labels")
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{_no_number(labels)}; number the classes from 0") from error
    labels = dense_tensor(labels, "labels")
    known = torch.ones_like(labels, dtype=torch.bool) if mask is None else expanded(mask.bool(), labels)
    if labels.is_floating_point() or labels.is_complex():
        if labels.is_floating_point():
            _refuse(labels, (labels != labels.round()) & known, wanted, index)
        _refuse(labels, known, f"its dtype {labels.dtype} is not an integer one: {wanted}; convert with .long()", index)
    labels = labels.to(torch.int64)
    bad = torch.zeros_like(known) if signed else labels < 0
    if num_classes is not None:
        bad = bad | (labels >= num_classes)
    _refuse(labels, bad & known, wanted, index)
    return labels


def dense_tensor(values: Any, what: str) -> Tensor:
    """A tensor whose values can be picked by index, or an array as one.

    Raises:
        InputError: something else, or a tensor that is sparse, nested or without content.
    """
    refuse_masked(values, what)
    if isinstance(values, np.ndarray):
        try:
            values = torch.as_tensor(values)
        except (TypeError, ValueError) as error:
            raise InputError(f"the {what} are an array that torch cannot read: {error}") from None
    if not isinstance(values, Tensor):
        raise InputError(f"the {what} are a {type(values).__name__}, not a tensor; stack them with torch.stack")
    if values.is_meta or values.is_nested or values.layout != torch.strided:
        raise InputError(
            f"the {what} are a tensor of {values.dtype} ({values.layout}, on '{values.device}') ; give a dense "
            "one, values.to_dense()"
        )
    return values


def refuse_masked(values: Any, what: str) -> None:
    """Refuse a masked array of NumPy, whose mask would be lost.

    Raises:
        InputError: something is masked.

    >>> refuse_masked(np.ma.array([1, 2], mask=[False, True]), "labels")
    Traceback (most recent call last):
    preceptor.errors.InputError: 1 of the values of the labels are masked; leave such samples out, or give filled()
    """
    if np.ma.is_masked(values):
        masked = int(np.ma.getmaskarray(values).sum())
        raise InputError(f"{masked} of the values of the {what} are masked; leave such samples out, or give filled()")


def _no_number(labels: Any) -> str:
    """Which of the labels is none."""
    several = isinstance(labels, Sequence) or (isinstance(labels, np.ndarray) and labels.ndim > 0)
    if several and not isinstance(labels, str | bytes):
        for sample, label in enumerate(labels):
            if isinstance(label, int) and abs(label) >= 2**63:
                return f"the label of sample {sample} is {label}, which is too large"
            if not isinstance(label, int | float | np.number | np.bool_):
                shown = label.item() if isinstance(label, np.generic) else label
                return f"the labels are not numbers: that of sample {sample} is {shown!r}"
    return "the labels are not numbers"


def _refuse(labels: Tensor, bad: Tensor, wanted: str, index: Tensor | None) -> None:
    """Name the first bad label."""
    if not bad.any():
        return
    first = bad.nonzero()[0]
    row = int(first[0]) if len(first) else 0
    sample = row if index is None else int(index[row])
    raise InputError(f"the label of sample {sample} is {labels[tuple(first)].item()}; {wanted}")


def one_number(label: Any) -> Any:
    """A label that is an array, a tensor or a list of one number as that number of Python; anything else as it is.

    >>> one_number(np.array([3], dtype=np.uint8)), one_number(torch.tensor(2)), one_number("cat")
    (3, 2, 'cat')
    """
    if isinstance(label, list | tuple) and len(label) == 1:
        return one_number(label[0])
    if isinstance(label, np.generic):
        return label.item()
    if isinstance(label, Tensor | np.ndarray) and len(label.reshape(-1)) == 1:
        return label.reshape(-1)[0].item()
    return label


def class_number(label: Any, sample: int) -> Any:
    """A sample's label, which must not be several numbers.

    Raises:
        InputError: it is a row of numbers, of one class each, or of one token each.

    >>> class_number(torch.tensor([0, 1, 0]), 7)
    Traceback (most recent call last):
    preceptor.errors.InputError: the label of sample 7 is a one-hot row of 3; give the class number, label.argmax()
    """
    label = one_number(label)
    if not isinstance(label, list | tuple | np.ndarray | Tensor):
        return label
    try:
        row = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the label of sample {sample} is {label!r}; labels are integers from 0") from None
    if row.ndim == 1 and row.sum() == 1 and (row == 1).sum() == 1 and (row != 0).sum() == 1:
        raise InputError(
            f"the label of sample {sample} is a one-hot row of {len(row)}; give the class number, label.argmax()"
        )
    soft = ", and soft labels as a teacher" if row.is_floating_point() and row.ndim == 1 else ""
    raise InputError(
        f"the label of sample {sample} is an array of shape {tuple(row.shape)}; give one class number a sample{soft}"
    )


def expanded(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of the first axes, spread over the axes of `like` that follow."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim)).expand_as(like)
