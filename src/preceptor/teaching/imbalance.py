"""What is done about classes of unequal size: class weights from counts, and the focal loss."""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from preceptor.errors import InputError
from preceptor.tensors import at_label, blank, prepare

Weights = Tensor | Sequence[float]


def class_weights(
    counts: Tensor | Sequence[int], how: Literal["balanced", "effective"] = "balanced", *, beta: float = 0.999
) -> Tensor:
    """A weight for each class from how many samples it has: the rarer the class, the larger; float32 (C,).

    - "balanced": n / (C n_c), as scikit-learn's `compute_class_weight`; over the samples counted, their mean is 1.
    - "effective": proportional to (1 - beta) / (1 - beta^n_c), the inverse of the effective number of samples of Cui
      et al. 2019 (arXiv 1901.05555); they add up to C. beta = 0 is no weighting; towards 1 it is 1 / n_c.

    Args:
        counts: samples of each of the C classes, such as ``labels.bincount(minlength=C)``.
        how: "balanced" or "effective".
        beta: of "effective", in [0, 1).

    Raises:
        InputError: a class without samples, another word, or a beta outside [0, 1).

    >>> class_weights([30, 10]).tolist()
    [0.6666666865348816, 2.0]
    """
    numbers = torch.as_tensor(counts, dtype=torch.float64)
    if how not in ("balanced", "effective"):
        raise InputError(
            f"class_weights is {how!r}: choose 'balanced' or 'effective', or give a number for each class."
        )
    if not 0 <= beta < 1:
        raise InputError(f"beta of the class weights is {beta}: choose it in [0, 1), for instance 0.999.")
    empty = (numbers < 1).nonzero().flatten().tolist()
    if numbers.ndim != 1 or not len(numbers) or empty:
        what = f"class {empty[0]} has no sample" if empty else f"the counts have shape {tuple(numbers.shape)}"
        raise InputError(f"{what}, so that its weight cannot be counted: give class_weights as a list of numbers.")
    if how == "balanced":
        return (numbers.sum() / (len(numbers) * numbers)).float()
    inverse = (1 - beta) / (1 - beta**numbers)
    return (inverse * len(numbers) / inverse.sum()).float()


def weights_of_classes(weights: Weights, log_q: Tensor) -> Tensor:
    """Weights (C,) beside log-probabilities (..., C), in their type and on their device.

    Raises:
        InputError: they are words, not one for each class, negative, or not finite.
    """
    if isinstance(weights, str):
        raise InputError(f"class_weights is {weights!r}: give numbers, class_weights(counts, {weights!r}) counts them.")
    try:
        found = weights.to(log_q) if isinstance(weights, Tensor) else _on(tuple(weights), log_q.dtype, log_q.device)
    except InputError:
        raise
    except (TypeError, ValueError):
        raise InputError(f"class_weights is {weights!r}: give one number for each class.") from None
    if found.shape != log_q.shape[-1:]:
        raise InputError(f"class_weights has shape {tuple(found.shape)}: give {log_q.shape[-1]}, one for each class.")
    return found


@functools.lru_cache(maxsize=16)
def _on(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor, checked and brought to a device once and not in every step."""
    if not all(0 <= weight < math.inf for weight in weights):
        raise InputError(f"class_weights is {list(weights)}: give numbers of at least 0.")
    with torch.inference_mode(False):  # whoever asks next may want gradients
        return torch.tensor(weights, dtype=dtype, device=device)


def focal(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    gamma: float = 2.0,
    class_weights: Weights | None = None,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """-w_y (1 - q_y)^gamma ln q_y with q = softmax(logits), in nats; one value per example.

    The focal loss of Lin et al. 2017 (arXiv 1708.02002), section 3, for many classes: what is classified well already
    counts less. gamma = 0 is the (weighted) cross-entropy; their alpha is `class_weights`.

    Args:
        logits: the model's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        gamma: the focusing parameter, at least 0.
        class_weights: w, one number a class, shape (C,). The mean of the loss divides by the number of examples, and
            not by the sum of their weights as `torch.nn.CrossEntropyLoss` does; in a recipe also ``balanced`` or
            ``effective`` (`class_weights`).
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: gamma is negative, the weights are not one a class, the labels are no class numbers (int64), or
            labels or mask are not one per example.

    >>> focal(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), gamma=1.0)  # ln 2 / 2 for the first
    tensor([0.3466, 1.8734])
    """
    if not gamma >= 0:
        raise InputError(f"gamma of the focal loss is {gamma}: choose 0 or more, for instance 2.")
    logits, labels = prepare(logits, labels, mask)
    log_q = logits.log_softmax(-1)
    at = at_label(log_q, labels)
    # 1 - q_y without cancellation; its power has no finite slope at 0.
    values = -at * (-at.expm1()).clamp(min=torch.finfo(at.dtype).tiny) ** gamma
    if class_weights is not None:
        values = values * weights_of_classes(class_weights, log_q)[labels]
    return blank(values, mask)
