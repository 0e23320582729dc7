"""Records of language models: a row of the record for each position that counts, found again by what it saw."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records.beside import read_beside, write_beside
from preceptor.records.reader import HELDOUT, TOKENS

_DIGEST, _AT_ONCE = 16, 4096


def token_ids(index: Tensor, mask: Tensor) -> Tensor:
    """The ids of the n positions that count, int64 (n,), row after row: row times L, plus the position.

    Args:
        index: of the rows, int64 (B,).
        mask: bool (B, L), True where a position counts.

    >>> token_ids(torch.tensor([5, 2]), torch.tensor([[True, True, False], [False, True, True]]))
    tensor([15, 16,  7,  8])
    """
    length = mask.shape[1]
    return (index[:, None] * length + torch.arange(length, device=index.device))[mask]


def digests_of(inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """What tells rows of tokens from others: BLAKE2b of what each sees and is asked, uint8 (B, 16).

    Args:
        inputs: ``input_ids`` and ``position_ids``, int64 (B, L); without positions these count from 0.
        labels: int64 (B, L), the next tokens; negative where nothing counts.
    """
    ids = inputs["input_ids"]
    positions = inputs.get("position_ids", torch.arange(ids.shape[-1], device=ids.device).expand_as(ids))
    content = torch.stack([ids, positions, labels.clamp(min=-1)], 1).cpu().contiguous().numpy().astype("<i8")
    found = b"".join(hashlib.blake2b(row, digest_size=_DIGEST).digest() for row in content)
    return torch.from_numpy(np.frombuffer(bytearray(found), np.uint8).reshape(-1, _DIGEST))


def digests_at(dataset: Any, rows: Tensor) -> Tensor:
    """`digests_of` some rows (N,) of a data set of tokens, uint8 (N, 16)."""
    found = [digests_of(*dataset.fetch(index)) for index in rows.split(_AT_ONCE)]
    return torch.cat(found) if found else torch.zeros(0, _DIGEST, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Which tokens a record is of.

    Attributes:
        ids: of the n rows of the record, int64 (n,), ascending.
        documents: of each the number of its document, int32 (n,).
        bytes: how many bytes of text its label is, int32 (n,).
        rows: the N rows of tokens that they are of, int64 (N,).
        digests: of these, uint8 (N, 16) (`digests_of`).
        length: L, positions of a row of tokens.
        context: what decides what a position sees, as the data set says it (`Data.preprocessing`).
    """

    ids: Tensor
    documents: Tensor
    bytes: Tensor
    rows: Tensor
    digests: Tensor
    length: int
    context: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The digests in ascending order, and which row each is of."""
        keys = _keys(self.digests)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def find(self, digests: Tensor) -> Tensor:
        """The row of tokens of each digest (B, 16), int64 (B,); -1 where there is none, the first of several equal."""
        keys, order = self._sorted
        if not len(keys):
            return torch.full((len(digests),), -1)
        wanted = _keys(digests)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = self.rows[torch.from_numpy(order[places])]
        return torch.where(torch.from_numpy(keys[places] == wanted), found, -1)


def _keys(digests: Tensor) -> np.ndarray:
    return np.ascontiguousarray(digests.numpy()).view(f"S{_DIGEST}").reshape(-1)


def tokens_at(dataset: Any, rows: Tensor, context: Mapping[str, Any]) -> Tokens:
    """What is to be told of some rows (N,), ascending, of a data set of tokens (`preceptor.data.tokens`)."""
    counted, documents, counts = [], [], []
    for index in rows.split(_AT_ONCE):
        mask = dataset.labels[index] >= 0
        counted.append(token_ids(index, mask))
        documents.append(dataset.documents[index][mask].int())
        counts.append(dataset.byte_counts[index][mask].int())
    return Tokens(
        ids=torch.cat(counted),
        documents=torch.cat(documents),
        bytes=torch.cat(counts),
        rows=rows,
        digests=digests_at(dataset, rows),
        length=dataset.ids.shape[1],
        context=dict(context),
    )


def write_tokens(folder: Path, tokens: Tokens) -> None:
    """Write down which tokens a record is of.

    Raises:
        InputError: others are written down already.
    """
    names = ("ids", "documents", "bytes", "rows", "digests")
    metadata = {"length": tokens.length, "context": tokens.context}
    write_beside(folder, TOKENS, {name: getattr(tokens, name) for name in names}, metadata)


def is_of_tokens(folder: Path) -> bool:
    """Whether the record in a folder is one of tokens, be it of held-out rows alone."""
    return any((each / f"{TOKENS}.json").is_file() for each in (folder, folder / HELDOUT))


def read_tokens(folder: Path) -> Tokens:
    """Which tokens a record is of.

    Raises:
        InputError: it is none of tokens, or damaged.
    """
    found = read_beside(folder, TOKENS)
    if found is None:
        raise InputError(
            f"the record '{folder}' is of samples with one label each; give one that preceptor record wrote of tokens"
        )
    tensors, metadata = found
    return Tokens(**tensors, length=metadata["length"], context=metadata["context"])
