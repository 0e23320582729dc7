"""Cross-entropy and its two classic softeners, label smoothing and the confidence penalty."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from preceptor.errors import InputError
from preceptor.teaching.imbalance import Weights, weights_of_classes
from preceptor.tensors import at_label, blank, prepare


def cross_entropy(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    class_weights: Weights | None = None,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """-w_y ln q_y, the cross-entropy of the label with q = softmax(logits), in nats; one value per example.

    Args:
        logits: the teacher's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        class_weights: w, one number a class, shape (C,); without it 1. The mean of the loss divides by the number of
            examples, and not by the sum of their weights as `torch.nn.CrossEntropyLoss` does; in a recipe also
            ``balanced`` or ``effective`` (`preceptor.teaching.class_weights`).
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: the labels are no class numbers (int64), labels or mask are not one per example, or the weights are
            not one a class.

    >>> import torch
    >>> cross_entropy(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    tensor([0.6931, 2.1269])
    """
    logits, labels = prepare(logits, labels, mask)
    log_q = logits.log_softmax(-1)
    values = -at_label(log_q, labels)
    if class_weights is not None:
        values = values * weights_of_classes(class_weights, log_q)[labels]
    return blank(values, mask)


def label_smoothing(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    smoothing: float = 0.1,
    class_weights: Weights | None = None,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Cross-entropy of q = softmax(logits) with (1 - s) one-hot + s uniform, in nats; one value per example.

    Szegedy et al. 2016 (arXiv 1512.00567), section 7. The label itself keeps 1 - s + s/C, as in
    `torch.nn.functional.cross_entropy(label_smoothing=s)`, and with class weights w the target is w times that.

    Args:
        logits: the teacher's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        smoothing: s, the share of the target that is spread evenly over all classes, in [0, 1).
        class_weights: w, as of `cross_entropy`.
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: the smoothing is outside [0, 1), the labels are no class numbers (int64), or labels or mask are
            not one per example.

    >>> import torch
    >>> label_smoothing(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), smoothing=0.2)
    tensor([0.3269])
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing is {smoothing}: choose it in [0, 1), for instance 0.1.")
    logits, labels = prepare(logits, labels, mask)
    log_q = logits.log_softmax(-1)
    if class_weights is not None:
        log_q = log_q * weights_of_classes(class_weights, log_q)
    return blank(-(1 - smoothing) * at_label(log_q, labels) - smoothing * log_q.mean(-1), mask)


def confidence_penalty(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    weight: float = 0.1,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Cross-entropy minus `weight` times the entropy of q = softmax(logits), in nats; one value per example.

    Pereyra et al. 2017 (arXiv 1701.06548), section 3. It can be negative: entropy is rewarded.

    Args:
        logits: the teacher's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        weight: how much a nat of entropy is worth, at least 0.
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: the weight is negative, the labels are no class numbers (int64), or labels or mask are not one
            per example.

    >>> import torch
    >>> confidence_penalty(torch.zeros(1, 2), torch.tensor([0]), weight=0.5)  # (1 - 0.5) ln 2
    tensor([0.3466])
    """
    if not weight >= 0:
        raise InputError(f"weight of the confidence penalty is {weight}: choose 0 or more, for instance 0.1.")
    logits, labels = prepare(logits, labels, mask)
    log_q = logits.log_softmax(-1)
    entropy = -(log_q.exp() * log_q).sum(-1)
    return blank(-at_label(log_q, labels) - weight * entropy, mask)
