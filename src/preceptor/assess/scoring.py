"""One teacher under one loss: its per-sample scores, from some rows of its output at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from preceptor.assess import calibration, checks, distance, scores
from preceptor.assess.comparison import BINS, top_k
from preceptor.assess.evidence import Evidence
from preceptor.assess.forecasts import Forecast, Output
from preceptor.assess.intervals import Estimate
from preceptor.assess.optimum import student_forecast
from preceptor.assess.question import Question
from preceptor.assess.recalibration import at_best
from preceptor.assess.sampling import Answers
from preceptor.schema import Component

__all__ = ["Row", "Term", "scored"]

# Rows are read in blocks of so many numbers; an output of more than _LARGE is kept, for bins and for the search of its
# best temperature, in float32.
_BLOCK, _LARGE = 2**18, 2**23
# A label of probability 0 costs an infinite NLL; where none has one, so much is taken for what it might have cost.
_NEVER = 100.0


@dataclass(frozen=True, eq=False)
class Term:
    """A score as the mean of per-sample values."""

    values: np.ndarray
    bias: float = 0.0
    """How far above the truth bias alone may put the mean; the lower end of the interval allows for it."""
    rooted: bool = False
    """Reported is the root of the mean."""
    proportion: bool = False
    """The values are 0 or 1."""
    span: float | None = None
    """From the best to the worst value that a sample might have had: of scores whose intervals allow for it."""

    @property
    def allows_for_unseen(self) -> bool:
        """Whether its interval does; not where the score is infinite."""
        return self.span is not None and bool(np.isfinite(self.values).all())

    def in_percentiles(self, mean: float, low: float, high: float) -> Estimate:
        """The score in its interval, given the percentiles of its resampled mean."""
        if self.bias:
            low = max(0.0, low - self.bias)
        ends = np.array([mean, low, high])
        return Estimate(*np.asarray(calibration.root(ends) if self.rooted else ends).tolist())


class Row(NamedTuple):
    """One teacher's scores, what ranks it, and what tells whether they mean what they seem to."""

    terms: dict[str, Term]
    worth: np.ndarray
    """Per sample the value whose mean ranks the teacher."""
    worst: np.ndarray
    """Per sample the highest such value that another label would have given."""
    best: np.ndarray
    """Likewise the lowest."""
    reliability: calibration.Reliability
    confusion: np.ndarray
    fingerprints: np.ndarray
    num_classes: int


def scored(teacher: Output | Forecast, loss: Component, evidence: Evidence, question: Question) -> Row:
    """One teacher under one loss."""
    shape = (teacher.values if isinstance(teacher, Output) else teacher.probs).shape
    kept = np.empty(shape, np.float32 if np.prod(shape) > _LARGE else np.float64)
    found: dict[str, list[np.ndarray]] = {}
    step = max(1, _BLOCK // shape[1])
    for rows in (slice(start, start + step) for start in range(0, shape[0], step)):
        own = teacher.forecast(rows)
        prediction = student_forecast(own, loss)
        kept[rows] = prediction.log_probs
        for name, values in _values(prediction, own, evidence, rows, question.temperature_of(loss)):
            found.setdefault(name, []).append(values)
    values = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return _row(values, kept, evidence, question)


def _values(
    prediction: Forecast, teacher: Forecast, evidence: Evidence, rows: slice, temperature: float | None
) -> Iterator[tuple[str, np.ndarray]]:
    """By name, per-sample values of some rows."""
    labels, probs = evidence.labels[rows], prediction.probs
    sharpness, top = scores.sharpness(prediction), probs.argmax(-1)
    yield "accuracy", (top == labels).astype(np.float64)
    yield "brier", scores.brier(prediction, labels)
    yield "nll", scores.nll(prediction, labels)
    yield "sharpness", sharpness
    yield "entropy", scores.entropy(prediction)
    yield "top_k_mass", scores.top_k_mass(prediction, k=top_k(prediction.num_classes))
    if temperature is not None:  # of the teacher's own output
        yield "renyi_entropy", scores.renyi_entropy(teacher, temperature=temperature)
        yield "power_sum", scores.power_sum(teacher, temperature=temperature)
    if evidence.ratings is not None:
        yield "from_frequencies", ((probs - evidence.ratings.frequencies[rows]) ** 2).sum(-1)
    yield "confidence", probs.max(-1)
    yield "top", top
    yield "worst_brier", sharpness - 2 * probs.min(-1) + 1
    yield "best_brier", sharpness - 2 * probs.max(-1) + 1
    yield "worst_nll", -np.maximum(prediction.log_probs.min(-1), -_NEVER)
    yield "fingerprints", checks.fingerprints(prediction.log_probs)


def _row(values: dict[str, np.ndarray], log_probs: np.ndarray, evidence: Evidence, question: Question) -> Row:
    labels, weights = evidence.labels, evidence.sampling.weights
    top_label = calibration.sorted_into_bins(values["confidence"], values["accuracy"], BINS, "mass", weights)
    bins = calibration.classwise(log_probs, labels, BINS, "mass", weights)
    top_gap, span = top_label.absolute(), float(values["worst_brier"].mean() - values["best_brier"].mean())
    recalibrated = at_best(log_probs, Answers(labels, weights))
    terms = {
        "accuracy": Term(values["accuracy"], proportion=True),
        "brier": Term(values["brier"], span=span),
        "brier_calibration": Term(bins.squared),
        "brier_refinement": Term(values["brier"] - bins.squared, span=span),
        "brier_recalibrated": Term(recalibrated.brier, span=float((recalibrated.worst - recalibrated.best).mean())),
        "nll": Term(values["nll"], span=float(np.sqrt((values["worst_nll"] ** 2).mean()))),
        "calibration_error": Term(top_gap.values, bias=top_gap.bias),
        "debiased_calibration_error": Term(top_label.squared(), rooted=True),
        "classwise_calibration_error": Term(bins.absolute, bias=bins.bias),
    }
    plain = ("sharpness", "entropy", "top_k_mass", "renyi_entropy", "power_sum")
    terms |= {name: Term(values[name]) for name in plain if name in values}
    worth, worst, best = values["brier"], values["worst_brier"], values["best_brier"]
    if evidence.ratings is not None:
        # The raters' noise is common to all teachers: it matters to a distance and not to a difference.
        worth = values["from_frequencies"]
        if np.isinf(evidence.ratings.raters).all():  # no label is unseen; there may be samples like the worst and best
            worst, best = (np.full(len(worth), end) for end in (worth.max(), worth.min()))
            span = float(np.ptp(worth))
        if evidence.knows_distance:
            noise = distance.rater_noise(evidence.ratings.raters, evidence.ratings.frequencies)
            terms["distance"] = Term(worth - noise, span=span)
    if question.criterion == "brier_recalibrated":
        worth, worst, best = recalibrated
    diagram = calibration.Reliability(*top_label.diagram(values["confidence"]))
    confused = checks.confusion(labels, values["top"], log_probs.shape[1])
    return Row(terms, worth, worst, best, diagram, confused, values["fingerprints"], log_probs.shape[1])
