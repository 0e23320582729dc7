"""What a recorded language model is worth, from the numbers beside its outputs alone: no row of V is read."""

import numpy as np
import torch
from torch import Tensor

from preceptor.assess import TokenScores
from preceptor.errors import InputError
from preceptor.records.beside import read_beside
from preceptor.records.reader import TOKENS, Record
from preceptor.records.scores import scores

__all__ = ["token_scores"]


def token_scores(record: Record, ids: Tensor | None = None) -> TokenScores:
    """The scores of a recorded language model on labels of a record, within the rounding of what is stored.

    Temperatures are 1 and the inverses of the record's grid. A label that ties with the most probable token counts as
    right.

    Args:
        record: of tokens, with labels; that of held-out rows is in its folder ``heldout``.
        ids: of some positions, int64 (n,), in any order; all by default.

    Raises:
        InputError: nothing tells of its tokens, or not of some of the rows; or a row has no label.
    """
    ids = record.ids if ids is None else ids
    documents, sizes = _of_rows(record, ids)
    found = {name: torch.from_numpy(each) for name, each in scores(record, ids=ids).items()}
    temperatures = sorted({1.0, *(1 / g for g in record.manifest.grid)})
    nll_at = [torch.from_numpy(scores(record, temperature=t, ids=ids)["nll"]) for t in temperatures]
    known = record.scalars(ids)
    return TokenScores(
        documents=documents,
        labels=known.labels.int(),
        bytes=sizes,
        nll=found["nll"].float(),
        brier=found.get("brier", torch.full((len(ids),), torch.nan)).float(),
        entropy=found["entropy"].float(),
        confidence=known.log_max.exp().float(),
        correct=found["accuracy"].float(),
        nll_at=torch.stack(nll_at, -1).float(),
        temperatures=tuple(temperatures),
    )


def _of_rows(record: Record, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Documents and bytes of the rows of a record, int32 (n,)."""
    said = read_beside(record.folder, TOKENS)
    path = record.folder / f"{TOKENS}.safetensors"
    if said is None:
        raise InputError(
            f"the record '{record.folder}' has no {path.name}, which tells of what documents its rows are; record it "
            "anew"
        )
    stored, _ = said
    lacking = {"ids", "documents", "bytes"} - stored.keys()
    if lacking:
        raise InputError(f"'{path}' lacks '{min(lacking)}'; it is damaged or was not written by Preceptor")
    known, wanted = stored["ids"].numpy(), ids.numpy()
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known[order], wanted), max(len(known) - 1, 0))
    missing = np.flatnonzero(known[order][places] != wanted) if len(known) else np.arange(len(wanted))
    if len(missing):
        raise InputError(f"'{path}' does not tell of the row {wanted[missing[0]]} of its record; record it anew")
    rows = torch.from_numpy(order[places])
    return stored["documents"][rows].int(), stored["bytes"][rows].int()
