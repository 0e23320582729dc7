"""Tokens of documents as rows of one length, packed or padded, and what each position of a row is."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from preceptor.data.tokenizers import Encoded
from preceptor.errors import InputError
from preceptor.losses.tokens import IGNORED, shifted


class TokenRows(NamedTuple):
    """Rows of tokens, each int64 (N, L)."""

    ids: Tensor
    """What the model reads."""
    positions: Tensor
    """From 0 in each document and in each row; they go on in the padding."""
    labels: Tensor
    """The next token of the same document; -100 where there is none in the row."""
    documents: Tensor
    """The number of the document; -1 in the padding."""
    byte_counts: Tensor
    """Bytes of the label's text; 0 where there is no label."""


def rows_of(encoded: Encoded, length: int, *, packed: bool, pad: int, first: int = 0) -> TokenRows:
    """Documents as rows of `length` tokens; rows in which no token follows another are left out.

    Packed, one document follows another, and one that does not fit goes on in the next row. Otherwise each begins a
    row, and what is left of its last one is padding.

    Args:
        encoded: the tokens of one document after another.
        length: of a row, at least 2.
        pad: the token in the padding.
        first: the number of the first document.

    >>> tokens = Encoded(np.array([5, 6, 9, 7, 9]), np.array([1, 1, 0, 1, 0]), np.array([3, 2]))
    >>> rows_of(tokens, 3, packed=True, pad=9).labels.tolist()
    [[6, 9, -100], [9, -100, -100]]
    """
    lengths, total = encoded.lengths, len(encoded.ids)
    document = np.repeat(np.arange(len(lengths)), lengths)
    slot = np.arange(total)
    if not packed:
        windows = -(-lengths // length)
        begins = (np.cumsum(windows) - windows) * length
        slot += np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    size = -(-int(slot[-1] + 1) // length) * length
    ids, documents, counts = (np.full(size, value, np.int64) for value in (pad, -1, 0))
    ids[slot], documents[slot], counts[slot] = encoded.ids, document + first, encoded.byte_counts
    begins_here = np.r_[True, (documents[1:] != documents[:-1]) & (documents[1:] >= 0)]
    begins_here[::length] = True
    place = np.arange(size)
    positions = place - np.maximum.accumulate(np.where(begins_here, place, 0))
    return _rows(*(torch.from_numpy(each).view(-1, length) for each in (ids, positions, documents, counts)))


def _rows(ids: Tensor, positions: Tensor, documents: Tensor, counts: Tensor) -> TokenRows:
    labels = shifted(ids.masked_fill(documents < 0, IGNORED), positions)
    following = torch.nn.functional.pad(counts[:, 1:], (0, 1)).masked_fill(labels == IGNORED, 0)
    every = TokenRows(ids, positions, labels, documents, following)
    counting = (labels != IGNORED).any(1)
    return every if bool(counting.all()) else TokenRows(*(each[counting] for each in every))


def joined(parts: list[TokenRows]) -> TokenRows:
    """The rows of several parts, one part after the other."""
    return TokenRows(*(torch.cat(each) for each in zip(*parts, strict=True)))


def refuse_short(encoded: Encoded, length: int) -> None:
    """Refuse training documents that do not fill one packed row.

    Raises:
        InputError: with the number of their tokens.
    """
    if len(encoded.ids) < length:
        raise InputError(
            f"the training documents have {len(encoded.ids)} tokens, fewer than one row of length {length}; give "
            "longer ones, or a smaller length"
        )
