"""Scores on the samples that students learn from: reported, and never ranked by."""

from collections.abc import Mapping, Sequence

import numpy as np

from preceptor import assess
from preceptor.assess import Estimate, SeenScore
from preceptor.assess.intervals import percentile_intervals
from preceptor.assess.optimum import student_forecast
from preceptor.schema import Component
from preceptor.study.teachers.candidates import Candidate
from preceptor.study.teachers.known import Known

__all__ = ["seen_scores"]

_PARTS = ("train", "transfer")


def seen_scores(
    candidates: Sequence[Candidate], known: Known, loss: Component, level: float
) -> dict[str, dict[str, SeenScore]]:
    """Of each candidate, its score under a loss on each part of the samples that students learn from."""
    found: dict[str, dict[str, SeenScore]] = {candidate.name: {} for candidate in candidates}
    for part in _PARTS:
        # One teacher at a time: a training set's probabilities are large, and there may be many epochs.
        values = {
            c.name: known.scores(student_forecast(assess.forecast(view.logits), loss), view)
            for c in candidates
            if (view := c.students_see.get(part)) is not None
        }
        for name, estimate in _estimates(values, level).items():
            found[name][part] = SeenScore(known.measure, estimate, len(values[name]))
    return found


def _estimates(values: Mapping[str, np.ndarray], level: float) -> dict[str, Estimate]:
    """Means with their intervals, by candidate; those of equally many samples share their resamples."""
    found: dict[str, Estimate] = {}
    for size in {len(each) for each in values.values()}:
        group = {name: each for name, each in values.items() if len(each) == size}
        ends = percentile_intervals(assess.bootstrap_means(np.stack(list(group.values()))), level)
        for name, low, high in zip(group, *ends, strict=True):
            found[name] = Estimate(float(group[name].mean()), float(low), float(high))
    return found
