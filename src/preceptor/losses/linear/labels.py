"""The loss to the labels beside the fused losses to a teacher: cross-entropy from hidden states and a head."""

from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from preceptor.losses._common import check_labels, check_range, refused
from preceptor.losses.linear.engine import fused
from preceptor.losses.linear.head import Head, as_head
from preceptor.losses.linear.teacher import Form, Labels
from preceptor.losses.tokens import IGNORED


def cross_entropy(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    labels: Integer[Tensor, "*batch"],
    *,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """-log q of the label, from hidden states and a head: `torch.nn.functional.cross_entropy` of logits never all made.

    Gradient in the student's logits: q - y.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        labels: token ids (...), of what comes next (`preceptor.losses.tokens.shifted`); -100 where a token does not
            count.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes or dtypes that do not fit, or labels beyond the vocabulary.

    Example:
        >>> import torch
        >>> hidden, weight = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> cross_entropy(hidden, weight, torch.tensor([0, -100]))  # log(1 + 2 exp(-2))
        tensor(0.2395)
    """
    head, lead = as_head(student_head), student_hidden.shape[:-1]
    check_labels(labels, lead)
    counts = labels != IGNORED
    labels = labels.masked_fill(~counts, 0)
    size = head.size if vocabulary is None else vocabulary
    check_range(labels, size)
    if weight is not None:
        if weight.shape != lead:
            raise refused(f"weight has shape {tuple(weight.shape)}; give one number per token, {tuple(lead)}.")
        counts = weight.masked_fill(~counts.to(weight.device), 0)
    return fused(
        "cross_entropy",
        _UNUSED,
        student_hidden,
        head,
        Labels(labels.reshape(-1, 1).long().to(student_hidden.device), head.size),
        temperature=1.0,
        weight=counts,
        per_token=per_token,
        vocabulary=vocabulary,
        chunk=chunk,
    )


def _nothing(*_: Tensor | None) -> Tensor:
    raise AssertionError("labels solve their loss themselves")


_UNUSED = Form(_nothing, _nothing, _nothing)  # type: ignore[arg-type]
