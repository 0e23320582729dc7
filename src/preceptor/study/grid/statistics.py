"""What a study found: paired differences, and whether held-out labels foretold what the students became.

Pure functions of ``study.json``. Every list in it holds one value a seed, in the order of ``seeds``; a value that is
not finite is null there and NaN here, and makes NaN whatever rests on it: no seed is dropped in silence.

Before any student exists, held-out labels predict two things of it, both from the Brier score of what the loss makes
of the teacher. The score itself predicts how near to the truth the student comes. Realised is the student's Brier
score on the test part: the difference of two students' Brier scores is an unbiased estimate of the difference of their
squared distances to the true label distribution. The score **at the best temperature** predicts how accurate the
student is, as no temperature changes the most probable class.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from preceptor.assess.intervals import Estimate, mean_interval
from preceptor.errors import InputError
from preceptor.study.statistics import (
    centred_ranks,
    check_format,
    check_lengths,
    percentile,
    row_correlations,
    seed_weights,
    values_at,
)

__all__ = ["SCHEMA", "SCORES", "Cell", "Foretold", "Statistics", "Teacher", "check", "ranks", "summarize"]

SCHEMA = 1
"""Of ``study.json``."""
SCORES = ("accuracy", "brier", "nll", "calibration_error")
"""Of every teacher and student in it."""

_KEYS = (
    "name",
    "command",
    "data",
    "seeds",
    "teachers",
    "baseline",
    "students",
    "recipe",
    "circumstances",
    "time_total",
)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Teacher:
    """A teacher, and how its students fared over all losses."""

    name: str
    scores: Mapping[str, Estimate]
    """Held-out accuracy, Brier score, NLL, calibration error and ``brier_recalibrated``, the Brier score at the best
    temperature (NaN in an older study): mean over seeds, 95 % Student-t interval."""
    rank: int | None
    """Predicted: 1 is the lowest mean held-out Brier score at the best temperature (in an older study, the lowest Brier
    score); equal scores share a rank; None if not finite."""
    students: Estimate
    """Test accuracy of its students, averaged over the losses: mean over seeds, 95 % Student-t interval."""
    bins: Mapping[str, np.ndarray]
    """Its reliability diagram, ``count``, ``confidence`` and ``accuracy`` of each bin; NaN where a bin is empty."""


@dataclass(frozen=True)
class Cell:
    """The students of one teacher under one loss."""

    teacher: str
    loss: str
    accuracy: Estimate
    """Test accuracy: mean over seeds, 95 % Student-t interval."""
    difference: Estimate
    """Accuracy minus that of the student of the same seed trained on the labels alone, in percentage points: mean
    over seeds and 95 % Student-t interval, one at a time (no correction for the number of cells)."""


@dataclass(frozen=True)
class Foretold:
    """One prediction, and what became of it."""

    predicted: Float64[np.ndarray, "losses teachers"]
    """A held-out Brier score of what the loss makes of the teacher, mean over seeds; less is better."""
    realised: Float64[np.ndarray, "losses teachers"]
    """The students' test score, mean over seeds."""
    correlation: Mapping[str, Estimate]
    """Spearman's rank correlation over the teachers, by loss, 1 if all are in the predicted order; see `summarize`."""
    pooled: Estimate
    """The same over all losses: correlation of the ranks within each loss."""


@dataclass(frozen=True)
class Statistics:
    """What `summarize` finds in a study."""

    num_seeds: int
    baseline: Estimate
    """Test accuracy of the student trained on the labels alone: mean over seeds, 95 % Student-t interval."""
    baseline_brier: Estimate
    """Its Brier score, likewise."""
    teachers: tuple[Teacher, ...]
    """Best predicted first; equals, and those without a rank, in the order of the study."""
    losses: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    """By (teacher, loss)."""
    accuracy: Foretold | None
    """By the Brier score at the best temperature; None in an older study, which has no such score."""
    distance: Foretold
    """By the Brier score, the students' test Brier score. Arrays are in the order of `losses` and of `teachers`."""
    predicted_lead: Estimate | None
    """The score that ranks, of the teacher predicted second best minus that of the best: paired, 95 % Student-t."""
    realised_lead: Estimate | None
    """Mean test accuracy of the best teacher's students minus the second best's, in points: paired, likewise."""


def summarize(result: Mapping[str, Any], *, resamples: int = _RESAMPLES, seed: int = 0) -> Statistics:
    """The statistics of a study.

    The interval of a rank correlation is a 95 % percentile bootstrap over seeds: seeds are drawn with replacement, the
    same for every teacher and loss, and means, ranks and correlation computed again. Resampled means carry the
    seeds' noise twice, so the interval leans towards 0; with fewer than about five seeds it says little. It speaks of
    these teachers: the luck of having picked them, large where they are few, is not in it. NaN bounds for a single
    seed. Teachers whose means are not finite stand outside the correlation of that loss; a correlation of
    fewer than two distinct ranks is NaN.

    Args:
        result: the content of ``study.json``.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        InputError: something is missing, of another length, or of a newer format.
    """
    check(result)
    names, losses = list(result["teachers"]), tuple(result["students"])
    baseline = values_at(result, "baseline", "test", "accuracy")
    ranking = np.stack([_ranking(result, name) for name in names])
    rank = ranks(ranking.mean(-1))
    order = sorted(range(len(names)), key=lambda i: rank[i] or len(names) + 1)
    accuracy = _students(result, "accuracy")

    def foretold(key: str, realised: np.ndarray, sign: int) -> Foretold:
        predicted = _grid(result, lambda loss, name: ("teachers", name, key, loss))
        *each, pooled = _correlations(predicted, sign * realised, resamples, seed)
        by_loss = dict(zip(losses, each, strict=True))
        return Foretold(predicted.mean(-1)[:, order], realised.mean(-1)[:, order], by_loss, pooled)

    return Statistics(
        num_seeds=len(baseline),
        baseline=mean_interval(baseline),
        baseline_brier=mean_interval(values_at(result, "baseline", "test", "brier")),
        teachers=tuple(_teacher(result, names[i], rank[i], accuracy[:, i].mean(0)) for i in order),
        losses=losses,
        cells=_cells(names, losses, accuracy, baseline),
        accuracy=foretold("optimum_brier_recalibrated", accuracy, -1) if _has_recalibrated(result) else None,
        distance=foretold("optimum_brier", _students(result, "brier"), 1),
        predicted_lead=_lead(-ranking),
        realised_lead=_lead(100 * accuracy.mean(0)),
    )


def _has_recalibrated(result: Mapping[str, Any]) -> bool:
    """Whether the study was made by a version that stores the Brier score at the best temperature."""
    return any("brier_recalibrated" in teacher for teacher in result["teachers"].values())


def _ranking(result: Mapping[str, Any], name: str) -> Float64[np.ndarray, "seeds"]:
    """The score that a teacher is ranked by."""
    path = ("brier_recalibrated",) if _has_recalibrated(result) else ("heldout", "brier")
    return values_at(result, "teachers", name, *path)


def _teacher(result: Mapping[str, Any], name: str, rank: int | None, students: np.ndarray) -> Teacher:
    scores = {score: values_at(result, "teachers", name, "heldout", score) for score in SCORES}
    at_best = _ranking(result, name) if _has_recalibrated(result) else np.full(len(students), np.nan)
    scores["brier_recalibrated"] = at_best
    return Teacher(
        name=name,
        scores={score: mean_interval(values) for score, values in scores.items()},
        rank=rank,
        students=mean_interval(students),
        bins=_bins(result, name),
    )


def ranks(values: ArrayLike) -> list[int | None]:
    """Rank of each value, 1 the lowest; equal values share the best of their ranks, NaN has none.

    >>> ranks([0.3, 0.1, 0.3, float("nan")])
    [2, 1, 2, None]
    """
    # Means of the same numbers, added in another order, may differ in the last digit and are equal.
    numbers = np.round(np.asarray(values, dtype=np.float64), 12)
    return [None if np.isnan(value) else 1 + int((numbers < value).sum()) for value in numbers]


def check(result: Mapping[str, Any]) -> None:
    """Raise an `InputError` that names what is wrong with a study's result; see `summarize` for what it must hold."""
    check_format(result, SCHEMA, _KEYS)
    for key in ("seeds", "teachers", "students"):
        if not result[key]:
            raise InputError(f"the study has no {key}; it needs one at least")
    for part in ("teachers", "baseline", "students"):
        check_lengths(result[part], part, len(result["seeds"]))


def _grid(
    result: Mapping[str, Any], path: Callable[[str, str], tuple[str, ...]]
) -> Float64[np.ndarray, "losses teachers seeds"]:
    return np.array(
        [[values_at(result, *path(loss, name)) for name in result["teachers"]] for loss in result["students"]]
    )


def _students(result: Mapping[str, Any], score: str) -> Float64[np.ndarray, "losses teachers seeds"]:
    return _grid(result, lambda loss, name: ("students", loss, name, "test", score))


def _bins(result: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    keys = ("count", "confidence", "accuracy")
    bins = {key: values_at(result, "teachers", name, "reliability", key) for key in keys}
    if len({len(values) for values in bins.values()}) > 1:
        raise InputError(f"the study's teachers.{name}.reliability has lists of unequal length; run the study again")
    return bins


def _cells(
    names: Sequence[str], losses: Sequence[str], accuracy: np.ndarray, baseline: np.ndarray
) -> dict[tuple[str, str], Cell]:
    return {
        (name, loss): Cell(name, loss, mean_interval(accuracy[i, j]), mean_interval(100 * (accuracy[i, j] - baseline)))
        for i, loss in enumerate(losses)
        for j, name in enumerate(names)
    }


def _lead(values: Float64[np.ndarray, "teachers seeds"]) -> Estimate | None:
    """By how much the best row leads the second best, paired over seeds; None if there are no two to compare."""
    means = values.mean(-1)
    order = [i for i in np.argsort(-means, kind="stable") if np.isfinite(means[i])]
    return mean_interval(values[order[0]] - values[order[1]]) if len(order) > 1 else None


def _correlations(predicted: np.ndarray, realised: np.ndarray, resamples: int, seed: int) -> list[Estimate]:
    """Correlation of the ranks for each loss, and last for all of them together; of both less is better."""
    weights = seed_weights(predicted.shape[-1], resamples, seed)
    pairs = []
    for said, became in zip(predicted, realised, strict=True):
        known = np.isfinite(said.mean(-1) + became.mean(-1))
        pairs.append((centred_ranks(weights @ said[known].T), centred_ranks(weights @ became[known].T)))
    pairs.append(tuple(np.concatenate(side, -1) for side in zip(*pairs, strict=True)))
    return [percentile(row_correlations(*pair)) for pair in pairs]
