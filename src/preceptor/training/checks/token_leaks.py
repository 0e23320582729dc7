"""Whether a language model has learned documents that its student is scored on, by what they hold: another split, order
or file of the same text numbers and packs its rows otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from preceptor import runs
from preceptor.data.dataset import Data
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.runs.contents import contents_of
from preceptor.runs.folder import read_contents
from preceptor.training.data.samples import Samples, load_data

_WINDOW = 32  # tokens that are nobody's phrase
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


@dataclass(frozen=True)
class Learned:
    """Documents that a run was trained on and another is scored on."""

    part: str
    """``heldout`` or ``test``."""
    count: int
    total: int
    """Of the part."""
    first: int
    """The number of one of them."""


def refuse_learned(teacher: Path, trained: Tensor, samples: Samples) -> None:
    """Refuse a run whose training documents are some that its student is scored on, as `learned_of` finds them.

    Raises:
        InputError: so it is.
    """
    found = learned_of(teacher, trained, samples)
    if found is not None:
        raise InputError(
            f"the teacher '{teacher}' was trained on {found.count} of the student's {found.total} {found.part} "
            f"documents (the first: document {found.first}); give the student the data options of the teacher"
        )


def learned_of(run: Path, trained: Tensor, samples: Samples, *, role: str = "teacher") -> Learned | None:
    """The training documents of a run that a model which learns from it is scored on, and does not learn itself.

    A held-out document was learned if most of its passages of 32 tokens are in the run's training text; of a shorter
    one, if it is there as a whole. Where the run's text cannot be read as it was, that is noted.

    Args:
        run: its folder.
        trained: the rows of its own data that it was trained on, int64 (n,).
        samples: of the model that learns from it.
        role: what the run is to that model, ``teacher`` or ``start``.
    """
    theirs = _data_of(run, role)
    if theirs is None or not isinstance(theirs.train, TokenDataset):
        return None
    learned, _ = passages(theirs.train, trained)
    ours: Any = samples.data.train
    learned = np.setdiff1d(learned, passages(ours, samples.for_students)[0])
    scored = {"heldout": (ours, samples.parts["heldout"])}
    if samples.test is not None:
        scored["test"] = (samples.test.dataset, samples.test_indices)
    for part, (dataset, rows) in scored.items():
        found, documents = passages(dataset, rows)
        known, which = np.unique(documents, return_inverse=True)
        seen = known[2 * np.bincount(which, np.isin(found, learned)) > np.bincount(which)]
        if len(seen):
            return Learned(part, len(seen), len(known), int(seen[0]))
    return None


def passages(dataset: TokenDataset, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What tells the passages of 32 tokens of some rows (N,), uint64 (n,), and the document of each, int64 (n,).

    A shorter document is one passage. A document that goes on in the next of these rows is one.
    """
    ids, documents = (each[rows].flatten().numpy() for each in (dataset.ids, dataset.documents))
    ids, documents = ids[documents >= 0].astype(np.uint64), documents[documents >= 0]
    bounds = np.flatnonzero(np.diff(documents)) + 1
    begins, ends = np.r_[0, bounds], np.r_[bounds, len(ids)]
    end_of = np.repeat(ends, ends - begins)
    first = np.zeros(len(ids), bool)
    first[begins] = True
    start = np.flatnonzero(first | (np.arange(len(ids)) + _WINDOW <= end_of))
    end = np.minimum(start + _WINDOW, end_of[start])
    # Sums of tokens times powers of an odd number, mod 2**64, each moved to begin with the power 0.
    sums = np.r_[np.uint64(0), np.cumsum(_mixed(ids) * _powers(_BASE, len(ids)), dtype=np.uint64)]
    return (sums[end] - sums[start]) * _powers(_INVERSE, len(ids))[start], documents[start]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    return np.cumprod(np.r_[np.uint64(1), np.full(max(count - 1, 0), base)], dtype=np.uint64)


def _mixed(ids: np.ndarray) -> np.ndarray:
    """Tokens as numbers of which any few sums differ."""
    found = (ids + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    return (found ^ (found >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)


def _data_of(run: Path, role: str) -> Data | None:
    """The data that a run was trained on; None where its recipe names none, or they are not there as they were."""
    recipe = runs.read_recipe(run)
    if recipe.data is None:
        return None
    try:
        found = load_data(recipe, source=f"the recipe of the run '{run}'")
    except InputError as error:
        _note_unknown(run, role, f"cannot be read ({error})")
        return None
    return None if changed(run, found, role=role) else found


def changed(run: Path, found: Data, *, role: str = "teacher") -> bool:
    """Whether the data that a run's recipe names have changed since it was trained, which is noted."""
    then = (read_contents(run) or {}).get("data", {})
    if then in ({}, contents_of(found).get("data", {})):
        return False
    _note_unknown(run, role, "have changed since")
    return True


def _note_unknown(run: Path, role: str, what: str) -> None:
    scored = "what its student is scored on" if role == "teacher" else "what this run is scored on"
    note(
        f"the data of the {role} '{run}' {what}, so that nothing is known of what it was trained on: it may be {scored}"
    )
