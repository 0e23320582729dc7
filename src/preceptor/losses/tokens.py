"""Tokens of language models: which of them a position speaks of, and a temperature that is too high for many."""

import torch
from jaxtyping import Integer
from torch import Tensor

from preceptor.losses._common import refused

__all__ = ["shifted"]

IGNORED: int = -100
"""The label of what does not count, as in `torch.nn.CrossEntropyLoss`."""

# From this temperature and vocabulary on, nearly all of a softened teacher lies on tokens that it rules out.
_HOT, _LARGE = 2.0, 5000


def shifted(
    labels: Integer[Tensor, "*batch tokens"], position_ids: Integer[Tensor, "*rows tokens"] | None = None
) -> Integer[Tensor, "*batch tokens"]:
    """The label of each position's logits: the token after it, and -100 where there is none.

    A causal language model says at position t what comes at t + 1. Hidden states, logits and a teacher's answer stay as
    they are, so that all of them are of one shape; a loss that shifts by itself (as ``model(labels=...)`` does) is
    given labels that are not shifted.

    Args:
        labels: token ids (..., L), as the model reads them; -100 for prompts and padding.
        position_ids: of packed documents, (..., L) or (1, L), which start again at 0 with each: no document tells the
            first token of the next.

    Returns:
        Shape (..., L), of the labels' dtype. Those that are not -100 are the tokens to be divided by, once, by their
        number in the whole step.

    Raises:
        InputError: labels that are no integers, or positions of another length.

    >>> shifted(torch.tensor([[5, 6, 7, -100]]))
    tensor([[   6,    7, -100, -100]])
    >>> shifted(torch.tensor([[5, 6, 8, 9]]), torch.tensor([[0, 1, 0, 1]]))
    tensor([[   6, -100,    9, -100]])
    """
    if labels.is_floating_point() or labels.dtype == torch.bool or not labels.ndim:
        raise refused(f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give token ids, (..., L).")
    if position_ids is not None:
        if position_ids.shape[-1] != labels.shape[-1]:
            raise refused(
                f"position_ids are of {position_ids.shape[-1]} tokens and labels of {labels.shape[-1]}; give one each."
            )
        labels = labels.masked_fill(position_ids == 0, IGNORED)
    return torch.nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED)


def note_if_hot(loss: str, temperature: float, vocabulary: int) -> None:
    """Say once that a temperature is unusual for so many tokens."""
    if temperature <= _HOT or vocabulary <= _LARGE:
        return
    from preceptor.notices import note_once

    note_once(
        f"{loss} at temperature {temperature:g} over {vocabulary} tokens: most of what so soft a teacher says is about "
        "tokens that it rules out; 1 to 1.5 is usual for language models"
    )
