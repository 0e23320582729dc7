"""Squared error to the one-hot label (arXiv 2407.18041), and how to read a teacher trained with it."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from preceptor.errors import InputError
from preceptor.tensors import blank, prepare


def mse(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    on: Literal["softmax", "logit"] = "softmax",
    reduction: Literal["sum", "mean"] = "sum",
    scale: float | None = None,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """`scale` times the squared error of softmax(logits), or of the logits, to the one-hot label.

    Hamidi et al. 2024 (arXiv 2407.18041). One value per example; `reduction` is the one over *classes*. The
    sources differ from each other, hence four variants:

    - softmax, sum: the default; Brier score x C/2;
    - softmax, mean: the paper's theorem and its released toy experiment;
    - logit, mean: the released CIFAR script, as its authors meant it;
    - logit, sum: the same x C.

    With the default scale C/2 the logit gradient of (softmax, sum) equals cross-entropy's where the output is
    uniform, and only there. Away from it the gradient can be many times cross-entropy's, more so for many
    classes: clip its norm, for instance at 1.

    Args:
        logits: the teacher's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        on: what is compared with the one-hot label.
        reduction: sum or mean over the classes.
        scale: a factor on the whole; None is C/2 for (softmax, sum) and 1 for the others.
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: an unknown `on` or `reduction`, labels that are no class numbers (int64), or labels or a mask
            that are not one per example.

    >>> import torch
    >>> mse(torch.zeros(1, 4), torch.tensor([2]))  # (3/16 + 9/16) x 4/2
    tensor([1.5000])
    >>> mse(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), on="logit", reduction="mean")
    tensor([4.5000])
    """
    if on not in ("softmax", "logit"):
        raise InputError(f"on is {on!r}: choose 'softmax' or 'logit'.")
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}: choose 'sum' or 'mean' (over the classes).")
    logits, labels = prepare(logits, labels, mask)
    classes = logits.shape[-1]
    if scale is None:
        scale = classes / 2 if (on, reduction) == ("softmax", "sum") else 1.0
    output = logits.softmax(-1) if on == "softmax" else logits
    target = torch.zeros_like(output).scatter(-1, labels.unsqueeze(-1), 1.0)  # one_hot() cannot be vmapped
    squares = (output - target).square()
    return blank(scale * (squares.sum(-1) if reduction == "sum" else squares.mean(-1)), mask)
