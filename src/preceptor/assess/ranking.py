"""Which teacher will teach best: candidates scored on the same held-out samples, ranked, ties declared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from preceptor.assess import checks, intervals
from preceptor.assess.comparison import Comparison, Difference, TeacherScores
from preceptor.assess.evidence import Evidence, logits_of
from preceptor.assess.forecasts import Array, Forecast, read
from preceptor.assess.intervals import Estimate
from preceptor.assess.optimum import LossLike, in_words
from preceptor.assess.question import Question
from preceptor.assess.scoring import Row, scored
from preceptor.schema import Component

__all__ = ["compare", "compared"]


def compare(
    teachers: Mapping[str, Array],
    labels: Array | None = None,
    *,
    ids: Array | Mapping[str, Array] | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    class_names: Array | Sequence[str] | Mapping[str, Array | Sequence[str]] | None = None,
    groups: Array | None = None,
    weights: Array | None = None,
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
        groups: what names the group of each sample, `(N,)`, where some belong together (documents, patients, ratings of
            one item, augmented copies): intervals are by group.
        weights: how much each sample stands for, `(N,)`, 0 or more, where they were chosen or drawn from elsewhere
            (importance weights): all scores are then weighted means.
        loss: the name of one in `OPTIMA`, or such a one with its options, {"name": "ttm", "temperature": 4}.
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
            labels, counts or a truth that do not fit them or each other, groups or weights that do not fit them, fewer
            samples than classes, counts beside a truth, an
            unknown loss or criterion or an option that does not suit the loss, or anything `forecast` refuses, with the
            teacher's name.

    >>> labels = [0, 1] * 200
    >>> comparison = compare({"sure": [[9, 0], [0, 9]] * 200, "unsure": [[2, 0], [0, 2]] * 200}, labels)
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
    evidence = Evidence.of(
        teachers, labels, ids=ids, counts=counts, truth=truth, class_names=class_names, groups=groups, weights=weights
    )
    [comparison] = compared(teachers, evidence, question, probabilities=probabilities)
    return comparison


def compared(
    teachers: Mapping[str, Array | Forecast], evidence: Evidence, question: Question, *, probabilities: bool = False
) -> tuple[Comparison, ...]:
    """Teachers under each loss of a question."""
    # One teacher at a time: of each only its per-sample values are kept.
    rows: dict[str, list[Row]] = {}
    stands = evidence.standing
    evidence = evidence if stands is None else evidence.only(stands)
    for name, logits in teachers.items():
        known = isinstance(logits, Forecast)
        teacher = logits if known else read(logits, probabilities=probabilities, what=logits_of(str(name)))
        teacher = teacher if stands is None else teacher.only(stands)
        rows[str(name)] = [scored(teacher, loss, evidence, question) for loss in question.losses]
    return tuple(
        _ranked({name: found[i] for name, found in rows.items()}, loss, evidence, question)
        for i, loss in enumerate(question.losses)
    )


def _ranked(rows: Mapping[str, Row], loss: Component, evidence: Evidence, question: Question) -> Comparison:
    """Intervals, differences and ranks under one loss."""
    worth = {name: evidence.sampling.mean(row.worth) for name, row in rows.items()}
    names = sorted(rows, key=lambda name: worth[name])
    ordered = [rows[name] for name in names]
    differences = _differences(ordered, evidence, question)
    ranks = intervals.ranks(differences, len(names)) if differences else [None]
    of_distance = evidence.ratings is not None and question.criterion == "brier"
    return Comparison(
        teachers=tuple(
            TeacherScores(name, rank, scores, row.reliability)
            for name, rank, scores, row in zip(
                names, ranks, _estimates(ordered, evidence, question), ordered, strict=True
            )
        ),
        differences=tuple(Difference(names[i], names[j], pair) for (i, j), pair in differences.items()),
        criterion="distance" if of_distance else question.criterion,
        num_samples=evidence.num_samples,
        num_classes=ordered[0].num_classes,
        class_names=evidence.class_names,
        level=question.level,
        resamples=question.resamples,
        seed=question.seed,
        loss=loss.name,
        temperature=question.temperature_of(loss),
        coefficients=loss.options.get("coefficients"),
        scored=in_words(loss),
        notes=tuple(_notes(rows, evidence, question.level, differences)),
    )


def _estimates(rows: Sequence[Row], evidence: Evidence, question: Question) -> list[dict[str, Estimate]]:
    """Of each teacher all scores, each in its interval; all share their resamples."""
    terms = [(i, name, term) for i, row in enumerate(rows) for name, term in row.terms.items()]
    studentised = [each for each in terms if each[2].allows_for_unseen]
    others = [each for each in terms if not each[2].allows_for_unseen]
    found: list[dict[str, Estimate]] = [dict.fromkeys(row.terms, Estimate(0.0, 0.0, 0.0)) for row in rows]
    draws = {"resamples": question.resamples, "seed": question.seed}

    units = evidence.sampling.units(np.stack([term.values for *_, term in studentised]))
    spans = np.array([term.span for *_, term in studentised])
    alike = evidence.sampling.effective(units.shape[1])
    intervals_t = intervals.studentised_intervals(units, spans, level=question.level, alike=alike, **draws)
    for (i, name, _), interval in zip(studentised, intervals_t, strict=True):
        # No score is below 0; the estimate of a distance may be.
        found[i][name] = interval if interval.value < 0 else replace(interval, low=max(0.0, interval.low))

    units = evidence.sampling.units(np.stack([term.values for *_, term in others]))
    groups = None if evidence.sampling.groups is None else units.shape[1]
    low, high = intervals.percentile_intervals(intervals.bootstrap_means(units, **draws), question.level)
    for k, (i, name, term) in enumerate(others):
        found[i][name] = (
            intervals.proportion_interval(units[k], question.level, evidence.sampling.alike(units[k]), groups)
            if term.proportion
            else term.in_percentiles(float(units[k].mean()), float(low[k]), float(high[k]))
        )
    return found


def _differences(rows: Sequence[Row], evidence: Evidence, question: Question) -> dict[tuple[int, int], Estimate]:
    """Of all pairs, what ranks the first less that of the second."""
    units = evidence.sampling.units(np.stack([row.worth for row in rows]))
    return intervals.simultaneous_differences(
        units,
        alike=evidence.sampling.effective(units.shape[1]),
        level=question.level,
        unseen=np.stack([row.worst for row in rows]),
        best=np.stack([row.best for row in rows]),
        resamples=question.resamples,
        seed=question.seed,
    )


def _notes(
    rows: Mapping[str, Row], evidence: Evidence, level: float, differences: Mapping[tuple[int, int], Estimate]
) -> Iterator[str]:
    """What makes the scores mean less than they seem."""
    yield from evidence.notes
    yield from checks.repeated(np.concatenate([row.fingerprints for row in rows.values()], axis=-1), evidence)
    if not evidence.drawn:
        for name, row in rows.items():
            yield from checks.class_order(f"The teacher {name!r}", row.confusion, evidence.class_names)
    if differences:
        span = min(float(row.worst.mean() - row.best.mean()) for row in rows.values())
        size = evidence.sampling.effective(evidence.sampling.units(rows[next(iter(rows))].worth[None]).shape[1])
        largest = max(abs(difference.value) for difference in differences.values())
        yield from checks.too_few(size, intervals.unseen_margin(span, size, level), largest)
