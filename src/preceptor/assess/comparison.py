"""Which teacher will teach best: candidates scored on the same held-out samples, ranked, ties declared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from preceptor.assess import calibration, distance, intervals, scores
from preceptor.assess.forecasts import (
    Array,
    Forecast,
    check_labels,
    check_same_shape,
    first_row,
    forecast,
    to_numpy,
)
from preceptor.assess.intervals import Estimate
from preceptor.assess.optimum import optimum
from preceptor.assess.search import recalibrated
from preceptor.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison", "Difference", "TeacherScores", "compare"]

SCHEMA_VERSION = 2

CRITERIA = ("brier", "brier_recalibrated")

_BINS = 15
_COLUMNS = {
    "distance": "distance ↓",
    "brier": "Brier ↓",
    "brier_recalibrated": "at best T ↓",
    "accuracy": "accuracy ↑",
    "nll": "NLL ↓",
    "calibration_error": "ECE ↓",
}
# Neither direction is better; without their intervals the table fits a terminal.
_PLAIN_COLUMNS = {"renyi_entropy": "Rényi entropy", "power_sum": "power sum"}


@dataclass(frozen=True)
class TeacherScores:
    """One teacher's scores, each with its interval; `rank` is None for a single teacher."""

    name: str
    rank: int | None
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """Criterion of the first teacher minus the second's; the intervals of all pairs hold together."""

    first: str
    second: str
    estimate: Estimate

    @property
    def tie(self) -> bool:
        """Whether the samples leave open which of the two is better."""
        return not self.estimate.excludes_zero


@dataclass(frozen=True)
class Comparison:
    """Teachers in order, best first, with their scores and paired differences; made by `compare`."""

    teachers: tuple[TeacherScores, ...]
    differences: tuple[Difference, ...]
    criterion: str
    num_samples: int
    num_classes: int
    class_names: tuple[str, ...] | None
    level: float
    resamples: int
    seed: int
    loss: str = "kd"
    temperature: float | None = None
    coefficients: tuple[Any, ...] | None = None

    @property
    def scored(self) -> str:
        """What of each teacher was scored: the loss's optimum, in words."""
        if self.loss in ("kd", "dkd"):
            return f"the teacher's own output, which {self.loss} makes the student's optimum"
        if self.loss == "ptloss":
            coefficients = self.coefficients or ()
            shown = "per class" if np.ndim(coefficients) > 1 else list(coefficients)
            return f"the proxy teacher of ptloss with coefficients {shown}"
        return (
            f"the teacher's output at temperature {self.temperature:g}, which {self.loss} makes the student's optimum"
        )

    @property
    def best(self) -> str:
        """The teacher with the best criterion; `tie_groups[0]` tells who else may be as good."""
        return self.teachers[0].name

    @property
    def ranking(self) -> list[str]:
        """Names, best first; empty for a single teacher."""
        return [teacher.name for teacher in self.teachers if teacher.rank is not None]

    @property
    def tie_groups(self) -> list[list[str]]:
        """Names by rank, the first rank first: its group holds all whom no other teacher beats beyond doubt.

        Ranks need not rise along the ranking, as some pairs are compared more surely than others.
        """
        groups: dict[int, list[str]] = {}
        for teacher in self.teachers:
            if teacher.rank is not None:
                groups.setdefault(teacher.rank, []).append(teacher.name)
        return [groups[rank] for rank in sorted(groups)]

    @property
    def _unknown_distance(self) -> bool:
        return self.criterion == "distance" and "distance" not in self.teachers[0].scores

    def table(self, also: Mapping[str, Mapping[str, str]] | None = None) -> "Table":
        """The comparison as a `rich` table; `also` maps headers of further columns to a cell for each teacher."""
        from rich.markup import escape
        from rich.table import Table

        columns = [name for name in _COLUMNS if name in self.teachers[0].scores]
        behind = {d.second: -d.estimate for d in self.differences if d.first == self.best}
        caption = f"{self.num_samples} samples, {self.level:.0%} intervals."
        if self.differences:
            alone = " (of one rater a sample only differences are known)" if self._unknown_distance else ""
            caption += (
                f" Ranked by {self.criterion}{alone}; 'behind' is the paired difference to the best teacher, "
                f"simultaneous over all pairs; equal ranks are ties."
            )
        table = Table(title=f"Assessed for {self.loss}: {self.scored}", caption=caption)
        table.add_column("rank", justify="right")
        # Cut off, the epochs of one run would have one name.
        table.add_column("teacher", overflow="fold", min_width=min(12, max(len(t.name) for t in self.teachers)))
        plain = [name for name in _PLAIN_COLUMNS if name in self.teachers[0].scores]
        headers = ("behind", *(_COLUMNS[name] for name in columns), *(_PLAIN_COLUMNS[name] for name in plain))
        also = also or {}
        for header in (*headers, *also):
            table.add_column(header, justify="right")
        for teacher in self.teachers:
            cells = (
                teacher.rank,
                escape(teacher.name),
                behind.get(teacher.name),
                *(teacher.scores[c] for c in columns),
                *(f"{teacher.scores[c].value:.3f}" for c in plain),
                *(cells.get(teacher.name) for cells in also.values()),
            )
            table.add_row(*("-" if cell is None else str(cell) for cell in cells))
        return table

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data for JSON, with a `schema_version`; None for what is not finite."""
        return {
            "schema_version": SCHEMA_VERSION,
            "criterion": self.criterion,
            "best": self.best,
            "ranking": self.ranking,
            "tie_groups": self.tie_groups,
            "teachers": [
                {
                    "name": teacher.name,
                    "rank": teacher.rank,
                    "scores": {name: _plain(score) for name, score in teacher.scores.items()},
                }
                for teacher in self.teachers
            ],
            "differences": [
                {"first": d.first, "second": d.second, "tie": d.tie, **_plain(d.estimate)} for d in self.differences
            ],
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "bins": _BINS,
            "binning": "mass",
            "top_k": _top_k(self.num_classes),
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
            "loss": self.loss,
            "temperature": self.temperature,
            "coefficients": None if self.coefficients is None else np.asarray(self.coefficients).tolist(),
        }


def compare(
    teachers: Mapping[str, Array],
    labels: Array,
    *,
    ids: Array | Mapping[str, Array] | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    loss: str = "kd",
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
        labels: class indices `(N,)`.
        ids: what identifies the samples, one list for all or one a teacher; orders that differ and ids that
            repeat are refused.
        counts: how many human raters chose each class, `(N, C)`.
        truth: the true label distribution, `(N, C)`, where it is known; instead of counts.
        class_names: names in the order of the classes, one list for all or one a teacher; likewise.
        loss: `kd`, `dkd`, `ttm`, `wttm` or `ptloss`.
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
    if criterion not in CRITERIA:
        raise InputError(f"There is no criterion {criterion!r}; {did_you_mean(criterion, CRITERIA)}")
    shape = common_shape(teachers)
    teachers = {str(name): logits for name, logits in teachers.items()}
    names = list(teachers)
    targets = check_labels(labels, shape)
    common_order("ids", ids, names, shape[0])
    classes = common_order("class_names", class_names, names, shape[1])
    ratings = _ratings(counts, truth, shape)
    # One teacher at a time: of each only its per-sample values are kept.
    rows = []
    for name, logits in teachers.items():
        teacher = forecast(logits, probabilities=probabilities, what=_of(name))
        student = forecast(optimum(teacher, loss, temperature=temperature, coefficients=coefficients))
        rows.append(_score(student, teacher, targets, ratings, temperature, criterion))
    order = sorted(range(len(rows)), key=lambda i: rows[i].worth.mean())
    names, rows = [names[i] for i in order], [rows[i] for i in order]
    ranked, differences = _evaluate(names, rows, level, resamples, seed)
    return Comparison(
        teachers=ranked,
        differences=differences,
        criterion="distance" if ratings is not None and criterion == "brier" else criterion,
        num_samples=shape[0],
        num_classes=shape[1],
        class_names=classes,
        level=level,
        resamples=resamples,
        seed=seed,
        loss=loss,
        temperature=temperature,
        coefficients=None if coefficients is None else _nested(to_numpy(coefficients).tolist()),
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
        return Estimate(*(calibration.root(ends) if self.rooted else ends).tolist())


class _Row(NamedTuple):
    """One teacher's scores, and the per-sample values whose mean ranks it."""

    terms: dict[str, _Term]
    worth: np.ndarray
    worst: np.ndarray
    """Per sample the highest such value that another label would have given."""


def _ratings(counts: Array | None, truth: Array | None, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Raters and their frequencies; a known truth is what infinitely many would say."""
    if counts is not None and truth is not None:
        raise InputError("counts and truth are both given: hand in the truth alone, which says more.")
    if truth is not None:
        known = forecast(truth, probabilities=True, what="The true label distributions").probs
        check_same_shape("The true label distributions", known.shape, shape)
        return np.full(shape[0], np.inf), known
    return None if counts is None else distance.rater_frequencies(counts, shape)


def _score(
    prediction: Forecast,
    teacher: Forecast,
    labels: np.ndarray,
    ratings: tuple[np.ndarray, np.ndarray] | None,
    temperature: float | None,
    criterion: str,
) -> _Row:
    at_best = recalibrated(prediction, labels)
    terms = _label_terms(prediction, at_best, labels) | _shape_terms(prediction)
    if temperature is not None:
        terms["renyi_entropy"] = _Term(scores.renyi_entropy(teacher, temperature=temperature))
        terms["power_sum"] = _Term(scores.power_sum(teacher, temperature=temperature))
    if ratings is not None and (ratings[0] >= 2).all():
        terms["distance"] = _Term(_from_frequencies(prediction, ratings) - distance.rater_noise(*ratings))
    if criterion == "brier_recalibrated":
        return _Row(terms, terms[criterion].values, _worst_brier(at_best))
    if ratings is None:
        return _Row(terms, terms["brier"].values, _worst_brier(prediction))
    # The raters' noise is common to all teachers: it matters to a distance and not to a difference. Further raters
    # could have said something else; a known truth leaves nothing unseen.
    worth = _from_frequencies(prediction, ratings)
    return _Row(terms, worth, worth if np.isinf(ratings[0]).all() else _worst_brier(prediction))


def _from_frequencies(prediction: Forecast, ratings: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Per sample the squared distance to the raters' frequencies."""
    return ((prediction.probs - ratings[1]) ** 2).sum(-1)


def _worst_brier(prediction: Forecast) -> np.ndarray:
    """Per sample the Brier score that its least probable label would give."""
    return scores.sharpness(prediction) - 2 * prediction.probs.min(-1) + 1


def _label_terms(prediction: Forecast, at_best: Forecast, labels: np.ndarray) -> dict[str, _Term]:
    top_label = calibration.top_label_bins(prediction, labels, _BINS, "mass")
    classwise = calibration.classwise_bins(prediction, labels, _BINS, "mass")
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
        "top_k_mass": _Term(scores.top_k_mass(prediction, k=_top_k(prediction.num_classes))),
    }


def _top_k(num_classes: int) -> int:
    # With few classes the top five would hold everything and tell nothing.
    return min(5, num_classes // 2)


def _evaluate(
    names: list[str], rows: list[_Row], level: float, resamples: int, seed: int
) -> tuple[tuple[TeacherScores, ...], tuple[Difference, ...]]:
    """Intervals, differences and ranks, of one set of resamples."""
    values = [term.values for row in rows for term in row.terms.values()]
    worth = np.stack([row.worth for row in rows])
    means = intervals.bootstrap_means(np.concatenate([values, worth]), resamples=resamples, seed=seed)
    ends = zip(*intervals.percentile_intervals(means[:, : len(values)], level), strict=True)
    worst = np.stack([row.worst for row in rows])
    pairs = intervals.simultaneous_differences(worth, means[:, len(values) :], level=level, unseen=worst)
    ranks = intervals.ranks(pairs, len(names)) if pairs else [None]
    teachers = tuple(
        TeacherScores(name, rank, {key: term.estimate(*next(ends), level) for key, term in row.terms.items()})
        for name, rank, row in zip(names, ranks, rows, strict=True)
    )
    return teachers, tuple(Difference(names[i], names[j], pair) for (i, j), pair in pairs.items())


def common_shape(teachers: Mapping[str, Array | Forecast]) -> tuple[int, int]:
    """Samples and classes, the same for every teacher, or an `InputError` that names the one that differs."""
    if not isinstance(teachers, Mapping):
        raise InputError(
            f"The teachers are handed in as {type(teachers).__name__}: hand in a dictionary, {{name: logits}}."
        )
    if not teachers:
        raise InputError("There is no teacher to assess: hand in at least one array of logits, by name.")
    shapes = {name: _shape(logits) for name, logits in teachers.items()}
    first, expected = next(iter(shapes.items()))
    if len(expected) != 2:
        raise InputError(f"{_of(first)} have shape {expected}: hand in (samples, classes).")
    if expected[1] < 2:
        raise InputError(f"{_of(first)} have shape {expected}: hand in one column for each of at least two classes.")
    for name, shape in shapes.items():
        if shape != expected:
            raise InputError(
                f"{_of(name)} have shape {shape} but those of {first!r} {expected}: "
                "hand in the same samples and classes for every teacher."
            )
    if expected[0] < expected[1]:
        raise InputError(f"There are {expected[0]} samples for {expected[1]} classes: hold out more samples.")
    return expected


def _shape(logits: Array | Forecast) -> tuple[int, ...]:
    if isinstance(logits, Forecast):
        return logits.probs.shape
    return tuple((logits if isinstance(logits, np.ndarray | torch.Tensor) else to_numpy(logits)).shape)


def common_order(
    what: str, values: Array | Mapping[str, Array] | None, teachers: list[str], length: int
) -> tuple[str, ...] | None:
    """What is listed for every teacher, once it is sure that all list the same in the same order.

    Raises:
        InputError: naming the first teacher and place that differ, or an id that is listed twice.
    """
    if values is None:
        return None
    if not isinstance(values, Mapping):
        lists = [to_numpy(values)] * len(teachers)
    elif set(values) == set(teachers):
        lists = [to_numpy(values[name]) for name in teachers]
    else:
        raise InputError(f"{what} are given for {list(values)} but logits for {teachers}: name the same teachers.")
    for name, found in zip(teachers, lists, strict=True):
        if found.shape != (length,):
            raise InputError(f"The {what} of teacher {name!r} have shape {found.shape}: hand in {length} of them.")
        differs = np.asarray(found != lists[0])
        if differs.any():
            i = first_row(differs)
            if str(found[i]) == str(lists[0][i]):
                raise InputError(
                    f"The {what} of teacher {name!r} are {found.dtype} and those of {teachers[0]!r} {lists[0].dtype}: "
                    "give both as one type."
                )
            raise InputError(
                f"The {what} of teacher {name!r} have {found[i]} in place {i} where {teachers[0]!r} has "
                f"{lists[0][i]}: bring all teachers into one order."
            )
    listed = tuple(str(value) for value in lists[0])
    if what == "ids" and len(set(listed)) < length:
        value, times = Counter(listed).most_common(1)[0]
        raise InputError(f"The {what} of teacher {teachers[0]!r} have {value} {times} times: list each once.")
    return listed


def _of(teacher: str) -> str:
    return f"The logits of teacher {teacher!r}"


def _nested(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_nested(value) if isinstance(value, list) else value for value in values)


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(estimate).items()}
