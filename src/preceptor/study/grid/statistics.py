"""What a study found: predicted and realised ranks, paired differences, and whether the one predicts the other.

Pure functions of ``study.json``. Every list in it holds one value a seed, in the order of ``seeds``; a value that is
not finite is null there and NaN here, and makes NaN whatever rests on it: no seed is dropped in silence.

**Predicted** is what held-out labels say before any student exists: the Brier score of what a loss makes the student's
optimum. **Realised** is the accuracy of the students on the test part.
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

__all__ = ["SCHEMA", "SCORES", "Cell", "Statistics", "Teacher", "check", "ranks", "summarize"]

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
    """Held-out accuracy, Brier score, NLL and calibration error: mean over seeds, 95 % Student-t interval."""
    rank: int | None
    """Predicted: 1 is the lowest mean held-out Brier score; equal scores share a rank; None if not finite."""
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
    predicted_rank: int | None
    """Within the loss, by the mean held-out Brier score of the student's optimum; None if not finite."""
    realised_rank: int | None
    """Within the loss, by mean test accuracy; None if not finite."""


@dataclass(frozen=True)
class Statistics:
    """What `summarize` finds in a study."""

    num_seeds: int
    baseline: Estimate
    """Test accuracy of the student trained on the labels alone: mean over seeds, 95 % Student-t interval."""
    teachers: tuple[Teacher, ...]
    """Best predicted first; equals, and those without a rank, in the order of the study."""
    losses: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    """By (teacher, loss)."""
    correlation: Mapping[str, Estimate]
    """Spearman's rank correlation of predicted with realised over the teachers, by loss; see `summarize`."""
    pooled: Estimate
    """The same over all losses: correlation of the ranks within each loss."""
    predicted_lead: Estimate | None
    """Held-out Brier score of the teacher predicted second best minus that of the best: paired, 95 % Student-t."""
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
    brier = np.stack([values_at(result, "teachers", name, "heldout", "brier") for name in names])
    optimum = _grid(result, lambda loss, name: ("teachers", name, "optimum_brier", loss))
    accuracy = _grid(result, lambda loss, name: ("students", loss, name, "test", "accuracy"))
    correlations = _correlations(optimum, accuracy, resamples, seed)
    rank, realised = ranks(brier.mean(-1)), accuracy.mean(0)
    teachers = [
        Teacher(
            name=name,
            scores={score: mean_interval(values_at(result, "teachers", name, "heldout", score)) for score in SCORES},
            rank=rank[i],
            students=mean_interval(realised[i]),
            bins=_bins(result, name),
        )
        for i, name in enumerate(names)
    ]
    return Statistics(
        num_seeds=len(baseline),
        baseline=mean_interval(baseline),
        teachers=tuple(sorted(teachers, key=lambda teacher: teacher.rank or len(names) + 1)),
        losses=losses,
        cells=_cells(names, losses, optimum, accuracy, baseline),
        correlation=dict(zip(losses, correlations, strict=False)),
        pooled=correlations[-1],
        predicted_lead=_lead(-brier),
        realised_lead=_lead(100 * realised),
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


def _bins(result: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    keys = ("count", "confidence", "accuracy")
    bins = {key: values_at(result, "teachers", name, "reliability", key) for key in keys}
    if len({len(values) for values in bins.values()}) > 1:
        raise InputError(f"the study's teachers.{name}.reliability has lists of unequal length; run the study again")
    return bins


def _cells(
    names: Sequence[str], losses: Sequence[str], optimum: np.ndarray, accuracy: np.ndarray, baseline: np.ndarray
) -> dict[tuple[str, str], Cell]:
    cells = {}
    for i, loss in enumerate(losses):
        predicted, realised = ranks(optimum[i].mean(-1)), ranks(-accuracy[i].mean(-1))
        for j, name in enumerate(names):
            cells[name, loss] = Cell(
                teacher=name,
                loss=loss,
                accuracy=mean_interval(accuracy[i, j]),
                difference=mean_interval(100 * (accuracy[i, j] - baseline)),
                predicted_rank=predicted[j],
                realised_rank=realised[j],
            )
    return cells


def _lead(values: Float64[np.ndarray, "teachers seeds"]) -> Estimate | None:
    """By how much the best row leads the second best, paired over seeds; None if there are no two to compare."""
    means = values.mean(-1)
    order = [i for i in np.argsort(-means, kind="stable") if np.isfinite(means[i])]
    return mean_interval(values[order[0]] - values[order[1]]) if len(order) > 1 else None


def _correlations(optimum: np.ndarray, accuracy: np.ndarray, resamples: int, seed: int) -> list[Estimate]:
    """Correlation of predicted with realised rank for each loss, and last for all of them together."""
    weights = seed_weights(optimum.shape[-1], resamples, seed)
    pairs = []
    for brier, accurate in zip(optimum, accuracy, strict=True):
        known = np.isfinite(brier.mean(-1) + accurate.mean(-1))
        pairs.append((centred_ranks(weights @ brier[known].T), centred_ranks(weights @ -accurate[known].T)))
    pairs.append(tuple(np.concatenate(side, -1) for side in zip(*pairs, strict=True)))
    return [percentile(row_correlations(predicted, realised)) for predicted, realised in pairs]
