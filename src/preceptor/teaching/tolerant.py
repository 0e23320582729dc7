"""The tolerant teacher (arXiv 1805.05551): cross-entropy with a pull on the gap between the top scores."""

import functools
import warnings

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from preceptor.errors import InputError
from preceptor.teaching.classification import cross_entropy
from preceptor.tensors import blank, prepare_logits


def top_score_difference(
    logits: Float[Tensor, "*batch classes"], *, k: int, mask: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch"]:
    """f_(1) - mean(f_(2), ..., f_(K)): the top score minus the mean of the K - 1 next, f = softmax(logits).

    Yang et al. 2019 (arXiv 1805.05551 v2). One value in [0, 1] per example. The top K are the model's own,
    whatever the label; K counts the top one. The gradient flows through the K selected scores.

    Args:
        logits: the teacher's logits, shape (..., C).
        k: K, at least 2 and at most C.
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: k is below 2 or above C, or the mask is not one boolean per example.

    >>> import torch
    >>> top_score_difference(torch.tensor([0.1, 0.6, 0.3]).log(), k=3)  # 0.6 - (0.3 + 0.1) / 2
    tensor(0.4000)
    """
    classes = logits.shape[-1]
    if not 2 <= k <= classes:
        raise InputError(f"k is {k}: choose it in [2, {classes}], from the top two to all classes.")
    top = prepare_logits(logits, mask).softmax(-1).topk(k).values
    return blank(top[..., 0] - top[..., 1:].sum(-1) / (k - 1), mask)


def tolerant(
    logits: Float[Tensor, "*batch classes"],
    labels: Int64[Tensor, "*batch"],
    *,
    eta: float = 0.5,
    k: int | None = None,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """eta CE + (1 - eta) TSD: cross-entropy in nats, softened by the top score difference.

    Yang et al. 2019 (arXiv 1805.05551 v2), the teacher of generation 0. One value per example. A teacher
    that fits its label, the other K - 1 top scores being equal, is optimal at the top score eta (K-1) /
    ((1-eta) K), capped at 1: 0.8 for eta = 0.5, K = 5. So eta matters between 1/K and K/(2K-1) only; see
    `check_tolerance`.

    Args:
        logits: the teacher's logits, shape (..., C).
        labels: class numbers in [0, C), shape (...).
        eta: weight of cross-entropy, in (0, 1].
        k: K of the top score difference, in [2, C]; None is min(5, C).
        mask: False marks examples that do not count, shape (...); theirs is exactly 0.

    Returns:
        Shape (...), in at least float32.

    Raises:
        InputError: eta is outside (0, 1], k outside [2, C], the labels are no class numbers (int64), or labels or
            mask are not one per example.

    Warns:
        UserWarning: once for each (eta, k) that cannot do what it is for; see `check_tolerance`.

    >>> import torch
    >>> tolerant(torch.tensor([0.1, 0.6, 0.3]).log(), torch.tensor(1), k=3)  # 0.5 (-ln 0.6) + 0.5 x 0.4
    tensor(0.4554)
    """
    if k is None:
        k = min(5, logits.shape[-1])
    check_tolerance(eta, k)
    strict = cross_entropy(logits, labels, mask=mask)
    return eta * strict + (1 - eta) * top_score_difference(logits, k=k, mask=mask)


def check_tolerance(eta: float, k: int) -> None:
    """Refuse an eta or k without meaning; warn, once for each pair, of one that makes no tolerant teacher.

    Args:
        eta: weight of cross-entropy against the top score difference.
        k: how many top scores are compared, the top one included.

    Raises:
        InputError: eta is outside (0, 1], or k is below 2.

    Warns:
        UserWarning: eta >= K/(2K-1), where a fitted teacher ends as certain as under cross-entropy alone, or
            eta <= 1/K, where it ends uniform over its top K.

    >>> check_tolerance(0.5, 5)
    """
    if not 0 < eta <= 1:
        raise InputError(f"eta is {eta}: choose it in (0, 1], and below K/(2K-1) to soften the teacher.")
    if k < 2:
        raise InputError(f"k is {k}: choose 2 or more, since it counts the top score itself.")
    if not torch.compiler.is_compiling():  # a compiled caller could neither warn nor remember that it did
        _advise(eta, k)


@functools.cache  # the objective is called for every batch; the advice is given once
def _advise(eta: float, k: int) -> None:
    if eta >= k / (2 * k - 1):
        warnings.warn(
            f"eta = {eta} cannot soften a fitted teacher: for K = {k} its top score eta (K-1) / ((1-eta) K) "
            f"stays at 1 unless eta < K/(2K-1) = {k / (2 * k - 1):.3f}.",
            stacklevel=3,
        )
    if eta <= 1 / k:
        warnings.warn(
            f"eta = {eta} makes a fitted teacher uniform over its top K = {k}: its top score "
            f"eta (K-1) / ((1-eta) K) exceeds 1/K only for eta > 1/K = {1 / k:.3f}.",
            stacklevel=3,
        )
