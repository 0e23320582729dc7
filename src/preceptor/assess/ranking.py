"""Which teacher will teach best: candidates scored on the same held-out samples, ranked, ties declared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from preceptor.assess import calibration, distance, intervals, scores
from preceptor.assess.comparison import BINS, Comparison, Difference, TeacherScores, top_k
from preceptor.assess.evidence import Evidence, Ratings, logits_of
from preceptor.assess.forecasts import Array, Forecast, forecast
from preceptor.assess.intervals import Estimate
from preceptor.assess.optimum import LossLike, in_words, student_forecast
from preceptor.assess.question import Question
from preceptor.assess.search import recalibrated
from preceptor.schema import Component

__all__ = ["compare", "compared"]


def compare(
    teachers: Mapping[str, Array],
    labels: Array | None = None,
    *,
    ids: Array | Mapping[str, Array] | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    loss: LossLike = "kd",
    temperature: float | None = None,
    coefficients: Array | None = None,
    criterion: str = "brier",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    probabilities: bool = False,
) -> Comparison:
    """Score teachers on held-out samples and rank them by what they are worth to a student.

    The ranking is by Brier score, as the difference of two teachers' Brier scores, on labels used neither to
    train nor to select them, is an unbiased estimate of the difference of their squared distances to the true
    label distribution, the thing that a student profits from. With `counts` or the `truth` it is by that distance
    itself: the same quantity from more labels. Teachers whose difference has 0 in its simultaneous interval are tied.

    Scored is what the student's loss makes of the teacher (`optimum`): for KD its own output, for TTM and WTTM
    its output at the temperature, for PTLoss its proxy. Rankings under different losses answer different
    questions; ask for one at a time.

    Scores (in `TeacherScores.scores`): `accuracy`, `brier`, `brier_calibration`, `brier_refinement`,
    `brier_recalibrated` (at the temperature that suits these samples best: it bears on the students' accuracy,
    which no temperature changes, as the Brier score bears on their distance to the truth), `nll`,
    `calibration_error`, `debiased_calibration_error`, `classwise_calibration_error` (15 equal-mass bins),
    `sharpness`, `entropy`, `top_k_mass` (k = 5, or half the classes if that is fewer); if a temperature is given
    `renyi_entropy` and `power_sum`, of the teacher's own output: what TTM adds to KD, and WTTM's weight;
    `distance` if every sample has two ratings or more, or the truth is given.

    Args:
        teachers: logits or log-probabilities `(N, C)` of each teacher, by name, over the same samples.
        labels: class indices `(N,)`; without them, one a sample is drawn from the counts or the truth.
        ids: what identifies the samples, one list for all or one a teacher; orders that differ and ids that
            repeat are refused.
        counts: how many human raters chose each class, `(N, C)`.
        truth: the true label distribution, `(N, C)`, where it is known; instead of counts.
        class_names: names in the order of the classes, one list for all or one a teacher; likewise.
        loss: `kd`, `dkd`, `ttm`, `wttm` or `ptloss`, or such a one with its options, {"name": "ttm", "temperature": 4}.
        temperature: of `ttm` and `wttm`, and of the Rényi entropy (order 1/T) and the power sum.
        coefficients: of `ptloss`, `(M,)` or `(C, M)`.
        criterion: what ranks: `brier`, which predicts how near to the truth students come, or `brier_recalibrated`,
            which predicts their accuracy (docs/verdict.md says how well).
        level: coverage of the intervals.
        resamples: bootstrap resamples, shared by all teachers.
        seed: of the resampling.
        probabilities: the arrays hold probabilities.

    Returns:
        The comparison, best teacher first. A single teacher is scored and not ranked.

    Raises:
        InputError: no teacher, teachers of unlike shape or in another order of samples or classes, ids that repeat,
            labels, counts or a truth that do not fit them, fewer samples than classes, counts beside a truth, an
            unknown loss or criterion or an option that does not suit the loss, or anything `forecast` refuses, with the
            teacher's name.

    >>> labels = [0, 1] * 20
    >>> comparison = compare({"sure": [[9, 0], [0, 9]] * 20, "unsure": [[2, 0], [0, 2]] * 20}, labels)
    >>> comparison.ranking, comparison.tie_groups
    (['sure', 'unsure'], [['sure'], ['unsure']])
    """
    question = Question.of(
        [loss],
        temperature=temperature,
        coefficients=coefficients,
        criterion=criterion,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    evidence = Evidence.of(teachers, labels, ids=ids, counts=counts, truth=truth, class_names=class_names)
    [comparison] = compared(teachers, evidence, question, probabilities=probabilities)
    return comparison


def compared(
    teachers: Mapping[str, Array | Forecast], evidence: Evidence, question: Question, *, probabilities: bool = False
) -> tuple[Comparison, ...]:
    """Teachers under each loss of a question."""
    # One teacher at a time: of each only its per-sample values are kept.
    rows: dict[str, list[_Row]] = {}
    for name, logits in teachers.items():
        teacher = forecast(logits, probabilities=probabilities, what=logits_of(str(name)))
        rows[str(name)] = [_score(teacher, loss, evidence, question) for loss in question.losses]
    return tuple(
        _ranked({name: found[i] for name, found in rows.items()}, loss, evidence, question)
        for i, loss in enumerate(question.losses)
    )


@dataclass(frozen=True, eq=False)
class _Term:
    """A score as the mean of per-sample values."""

    values: np.ndarray
    bias: float = 0.0
    """How far above the truth bias alone may put the mean; the lower end of the interval allows for it."""
    rooted: bool = False
    """Reported is the root of the mean."""
    proportion: bool = False
    """The values are 0 or 1."""

    def estimate(self, low: float, high: float, level: float) -> Estimate:
        """The score in its interval, given the percentiles of its resampled mean."""
        if self.proportion:
            return intervals.proportion_interval(self.values, level)
        if self.bias:
            low = max(0.0, low - self.bias)
        ends = np.array([self.values.mean(), low, high])
        return Estimate(*np.asarray(calibration.root(ends) if self.rooted else ends).tolist())


class _Row(NamedTuple):
    """One teacher's scores, and the per-sample values whose mean ranks it."""

    terms: dict[str, _Term]
    worth: np.ndarray
    worst: np.ndarray
    """Per sample the highest such value that another label would have given."""
    reliability: calibration.Reliability
    num_classes: int


def _score(teacher: Forecast, loss: Component, evidence: Evidence, question: Question) -> _Row:
    """One teacher under one loss."""
    labels, ratings = evidence.labels, evidence.ratings
    prediction = student_forecast(teacher, loss)
    at_best = recalibrated(prediction, labels)
    terms = _label_terms(prediction, at_best, labels) | _shape_terms(prediction)
    temperature = question.temperature_of(loss)
    if temperature is not None:
        terms["renyi_entropy"] = _Term(scores.renyi_entropy(teacher, temperature=temperature))
        terms["power_sum"] = _Term(scores.power_sum(teacher, temperature=temperature))
    if ratings is not None and evidence.knows_distance:
        noise = distance.rater_noise(ratings.raters, ratings.frequencies)
        terms["distance"] = _Term(_from_frequencies(prediction, ratings) - noise)
    bins, classes = calibration.reliability(prediction, labels, bins=BINS), prediction.num_classes
    if question.criterion == "brier_recalibrated":
        return _Row(terms, terms["brier_recalibrated"].values, _worst_brier(at_best), bins, classes)
    if ratings is None:
        return _Row(terms, terms["brier"].values, _worst_brier(prediction), bins, classes)
    # The raters' noise is common to all teachers: it matters to a distance and not to a difference. Further raters
    # could have said something else; a known truth leaves nothing unseen.
    worth = _from_frequencies(prediction, ratings)
    return _Row(terms, worth, worth if np.isinf(ratings.raters).all() else _worst_brier(prediction), bins, classes)


def _from_frequencies(prediction: Forecast, ratings: Ratings) -> np.ndarray:
    """Per sample the squared distance to the raters' frequencies."""
    return ((prediction.probs - ratings.frequencies) ** 2).sum(-1)


def _worst_brier(prediction: Forecast) -> np.ndarray:
    """Per sample the Brier score that its least probable label would give."""
    return scores.sharpness(prediction) - 2 * prediction.probs.min(-1) + 1


def _label_terms(prediction: Forecast, at_best: Forecast, labels: np.ndarray) -> dict[str, _Term]:
    top_label = calibration.top_label_bins(prediction, labels, BINS, "mass")
    classwise = calibration.classwise_bins(prediction, labels, BINS, "mass")
    top_gap, class_gap = top_label.absolute(), classwise.absolute()
    brier, brier_calibration = scores.brier(prediction, labels), classwise.squared().sum(0)
    return {
        "accuracy": _Term(scores.accuracy(prediction, labels), proportion=True),
        "brier": _Term(brier),
        "brier_calibration": _Term(brier_calibration),
        "brier_refinement": _Term(brier - brier_calibration),
        "brier_recalibrated": _Term(scores.brier(at_best, labels)),
        "nll": _Term(scores.nll(prediction, labels)),
        "calibration_error": _Term(top_gap.values, bias=float(top_gap.bias)),
        "debiased_calibration_error": _Term(top_label.squared(), rooted=True),
        "classwise_calibration_error": _Term(class_gap.values.mean(0), bias=float(class_gap.bias.mean())),
    }


def _shape_terms(prediction: Forecast) -> dict[str, _Term]:
    return {
        "sharpness": _Term(scores.sharpness(prediction)),
        "entropy": _Term(scores.entropy(prediction)),
        "top_k_mass": _Term(scores.top_k_mass(prediction, k=top_k(prediction.num_classes))),
    }


def _ranked(rows: Mapping[str, _Row], loss: Component, evidence: Evidence, question: Question) -> Comparison:
    """Intervals, differences and ranks under one loss."""
    names = sorted(rows, key=lambda name: rows[name].worth.mean())
    teachers, differences = _evaluate(names, [rows[name] for name in names], question)
    of_distance = evidence.ratings is not None and question.criterion == "brier"
    return Comparison(
        teachers=teachers,
        differences=differences,
        criterion="distance" if of_distance else question.criterion,
        num_samples=evidence.num_samples,
        num_classes=rows[names[0]].num_classes,
        class_names=evidence.class_names,
        level=question.level,
        resamples=question.resamples,
        seed=question.seed,
        loss=loss.name,
        temperature=question.temperature_of(loss),
        coefficients=loss.options.get("coefficients"),
        scored=in_words(loss),
        notes=evidence.notes,
    )


def _evaluate(
    names: list[str], rows: list[_Row], question: Question
) -> tuple[tuple[TeacherScores, ...], tuple[Difference, ...]]:
    """Intervals, differences and ranks, of one set of resamples."""
    level = question.level
    values = [term.values for row in rows for term in row.terms.values()]
    worth = np.stack([row.worth for row in rows])
    means = intervals.bootstrap_means(np.concatenate([values, worth]), resamples=question.resamples, seed=question.seed)
    ends = zip(*intervals.percentile_intervals(means[:, : len(values)], level), strict=True)
    worst = np.stack([row.worst for row in rows])
    pairs = intervals.simultaneous_differences(worth, means[:, len(values) :], level=level, unseen=worst)
    ranks = intervals.ranks(pairs, len(names)) if pairs else [None]
    teachers = tuple(
        TeacherScores(
            name, rank, {key: term.estimate(*next(ends), level) for key, term in row.terms.items()}, row.reliability
        )
        for name, rank, row in zip(names, ranks, rows, strict=True)
    )
    return teachers, tuple(Difference(names[i], names[j], pair) for (i, j), pair in pairs.items())
