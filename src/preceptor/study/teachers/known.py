"""What is known of the samples: of the held-out ones, and of others by their position in the data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preceptor import assess
from preceptor.assess import Evidence
from preceptor.assess.forecasts import Array, to_numpy
from preceptor.errors import InputError
from preceptor.study.teachers.candidates import Candidate, Predictions, agreed, heldout_rows

__all__ = ["Known", "known_of"]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of held-out samples, and of those that students learn from.

    Attributes:
        heldout: of the samples that teachers are compared on.
        counts, truth: of all samples of the data set, (N, C) by position, if one of the two is known.
        partly: they say too little for a distance of some samples that students learn from.
    """

    heldout: Evidence
    counts: np.ndarray | None = None
    truth: np.ndarray | None = None
    partly: bool = False

    @property
    def measure(self) -> str:
        """How teachers are scored where students learn: by their distance to the truth only if all of it is known."""
        known = not self.partly and (self.counts is not None or self.truth is not None)
        return "distance" if known else "brier"

    def scores(self, prediction: assess.Forecast, samples: Predictions) -> np.ndarray:
        """A score (n,) by this measure for the prediction of some samples of the data set."""
        if self.measure == "brier":
            return assess.brier(prediction, samples.labels)
        if self.truth is not None:
            return assess.squared_distance(prediction.probs, self.truth[samples.ids])
        assert self.counts is not None
        return assess.rater_distance(prediction.probs, self.counts[samples.ids])


def known_of(
    candidates: Sequence[Candidate],
    labels: Array | None,
    counts: Array | None,
    truth: Array | None,
    groups: Array | None = None,
    weights: Array | None = None,
) -> Known:
    """What was given, or else what the candidates bring with them.

    Raises:
        InputError: nothing is known, candidates bring counts or truths that differ, or something does not fit the
            held-out samples.
    """
    if counts is None and truth is None:
        counts = agreed("counts", candidates)
        truth = agreed("truth", candidates) if counts is None else None
    if labels is None:
        labels = next((c.labels for c in candidates if c.labels is not None), None)
    if labels is None and counts is None and truth is None:
        raise InputError(
            "there are no labels: give labels, counts or truth, or samples (a file that holds 'labels'), or put them "
            "into the files of logits",
            argument="labels",
        )
    positions = next((c.ids for c in candidates if c.trained_on is not None), None)
    size = len(candidates[0].logits)
    of_heldout, all_counts = _rows(counts, positions, size)
    probs, all_truth = _rows(truth, positions, size)
    heldout = Evidence.of(
        {candidate.name: candidate.logits for candidate in candidates},
        labels,
        counts=of_heldout,
        truth=probs,
        groups=agreed("groups", candidates) if groups is None else groups,
        weights=agreed("weights", candidates) if weights is None else weights,
        class_names=next((c.class_names for c in candidates if c.class_names is not None), None),
    )
    seen = [view.ids for candidate in candidates for view in candidate.students_see.values()]
    too_few = all_counts is not None and any((all_counts[ids].sum(-1) < 2).any() for ids in seen)
    unknown = all_truth is not None and any(np.isnan(all_truth[ids]).any() for ids in seen)
    return Known(heldout, all_counts, all_truth, too_few or unknown)


def _rows(
    table: Array | None, positions: np.ndarray | None, num_samples: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A table's rows of the held-out samples, and the whole of it where it is one of all samples of a data set."""
    if table is None:
        return None, None
    table = to_numpy(table)
    rows = heldout_rows(table, positions, num_samples)
    return rows, None if rows is table else table
