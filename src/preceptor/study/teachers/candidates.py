"""What is known of a teacher that is to be assessed, and whether several are of the same samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preceptor.assess.evidence import common_order
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef

__all__ = ["Candidate", "Predictions", "agree", "agreed", "check_same_samples", "heldout_rows", "refuse_seen"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a teacher says to n samples."""

    logits: np.ndarray
    """Log-probabilities `(n, C)`."""
    labels: np.ndarray
    """Class indices `(n,)`."""
    ids: np.ndarray
    """Positions in the data set, `(n,)`."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A teacher to be assessed: its predictions for the held-out samples, and how to load it."""

    name: str
    logits: np.ndarray
    """Logits or log-probabilities for the held-out samples, `(N, C)`."""
    labels: np.ndarray | None = None
    """Class indices `(N,)`."""
    ids: np.ndarray | None = None
    """What identifies the held-out samples, `(N,)`: for a run, their positions in its data set."""
    trained_on: np.ndarray | None = None
    """Positions of the samples whose labels it was fitted to; None where that is not known."""
    references: tuple[TeacherRef, ...] = ()
    """How to load it, members of an ensemble with their weights; empty where a file is all there is."""
    counts: np.ndarray | None = None
    """How many human raters chose each class, `(N, C)`: of the held-out samples, or of all of a run's data set."""
    truth: np.ndarray | None = None
    """The true label distribution of the held-out samples, `(N, C)`, where it is known."""
    class_names: tuple[str, ...] | None = None
    groups: np.ndarray | None = None
    """What names the group of each held-out sample, `(N,)`, where some belong together."""
    weights: np.ndarray | None = None
    """How much each held-out sample stands for, `(N,)`."""
    students_see: Mapping[str, Predictions] = field(default_factory=dict)
    """Its predictions for the samples that students learn from: ``train``, whose labels it was fitted to, and
    ``transfer``, whose labels it has not seen, where the run's split has one."""
    unseen: str | None = None
    """Why there are none, where a run would have them."""


def check_same_samples(candidates: Sequence[Candidate], ids: Any = None) -> None:
    """Refuse candidates that are not of the same samples and classes in one order, or that were fitted to them.

    Args:
        candidates: with logits of one shape.
        ids: of the samples, if they are given beside the candidates' own.
    """
    refuse_seen(candidates)
    samples, classes = candidates[0].logits.shape
    given = {} if ids is None else {"samples": ids}
    agree("ids", given | {c.name: c.ids for c in candidates}, samples)
    agree("labels", {c.name: c.labels for c in candidates}, samples)
    agree("class_names", {c.name: c.class_names for c in candidates}, classes)


def refuse_seen(candidates: Sequence[Candidate]) -> None:
    """Refuse a teacher that was fitted to samples that another one, and so all, are compared on.

    Raises:
        InputError: naming the teacher and the first such sample.
    """
    runs_only = [(c.name, c.trained_on, c.ids) for c in candidates if c.trained_on is not None and c.ids is not None]
    # Once for each distinct list: the epochs of a run share theirs.
    trained = {trained_on.tobytes(): (name, trained_on) for name, trained_on, _ in reversed(runs_only)}
    heldout = {ids.tobytes(): ids for _, _, ids in runs_only}
    for name, trained_on in reversed(trained.values()):
        for ids in heldout.values():
            seen = np.intersect1d(trained_on, ids)
            if len(seen):
                raise InputError(
                    f"the teacher '{name}' was trained on {len(seen)} of the held-out samples (the first: {seen[0]}); "
                    "compare teachers of one split: the same data, split and seed"
                )


def agree(what: str, given: Mapping[str, Any], length: int) -> None:
    """Refuse ids, labels or class names of several teachers that differ; None is not compared.

    Raises:
        InputError: naming the first teacher and place that differ, or one with another number of them.
    """
    known = {name: np.asarray(values) for name, values in given.items() if values is not None}
    if known:
        common_order(what, known, list(known), length, once=what == "ids")


def agreed(what: str, candidates: Sequence[Candidate]) -> np.ndarray | None:
    """The `counts`, `truth`, `groups` or `weights` of several candidates for the same samples, if any has them.

    Raises:
        InputError: naming two candidates whose are not the same: what is ranked first would depend on their order.
    """
    given = {c.name: (np.asarray(getattr(c, what)), c) for c in candidates if getattr(c, what) is not None}
    heldout = {name: heldout_rows(values, c.ids, len(c.logits)) for name, (values, c) in given.items()}
    for name, rows in heldout.items():
        first, expected = next(iter(heldout.items()))
        if not np.array_equal(rows, expected, equal_nan=rows.dtype.kind == "f"):
            raise InputError(
                f"the {what} of '{name}' are not those of '{first}'; give both the same, or {what} for all",
                argument=what,
            )
    return max((values for values, _ in given.values()), key=len, default=None)


def heldout_rows(table: np.ndarray, positions: np.ndarray | None, num_samples: int) -> np.ndarray:
    """The rows of the held-out samples, at these positions of a data set, of a table of them alone or of all."""
    if positions is None or len(table) == num_samples or len(table) <= positions.max():
        return table
    return table[positions]
