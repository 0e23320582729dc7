"""What candidates are worth under each loss: rankings, scores where students learn, and what was left unchecked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preceptor import assess
from preceptor.assess import Comparison, Estimate, Forecast, Reliability
from preceptor.assess.comparison import CRITERIA, common_shape
from preceptor.assess.distance import draw_labels
from preceptor.assess.forecasts import Array, check_same_shape, to_numpy
from preceptor.assess.intervals import check_level, percentile_intervals
from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import TeacherRef
from preceptor.runs import files
from preceptor.study.teachers import tables
from preceptor.study.teachers.candidates import (
    Candidate,
    Predictions,
    agree,
    agreed,
    heldout_rows,
    read_candidates,
    refuse_seen,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SCHEMA", "WHICH_PREDICTS", "Assessment", "Ranking", "SeenScore", "assess_candidates", "assess_files"]

SCHEMA = 2

# The page, the table and the documentation say the same.
WHICH_PREDICTS = (
    "The held-out score is the one that predicts students: where its labels served nothing else, the difference "
    "between two teachers is unbiased. The Brier score itself predicts how near to the truth students come, the one at "
    "the best temperature their accuracy. On its own training samples a teacher's score is too good, as it was fitted "
    "to their labels."
)
_PARTS = {"train": "on its own training samples (too good)", "transfer": "on transfer samples"}


@dataclass(frozen=True)
class SeenScore:
    """A teacher's score on samples that its students learn from: reported, and never ranked by."""

    measure: str
    """``brier`` against labels, or ``distance`` where human counts or the truth of these samples are known."""
    estimate: Estimate
    num_samples: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """The candidates under one loss."""

    comparison: Comparison
    reliability: Mapping[str, Reliability]
    """Of each candidate, bins of what was scored."""
    students_see: Mapping[str, Mapping[str, SeenScore]]
    """By part and candidate: ``train``, whose labels it was fitted to, and ``transfer``, whose it has not seen."""

    def table(self) -> "Table":
        """The ranking as a `rich` table, with a column for each part that students learn from."""
        columns = {
            self.header(part): {name: f"{score.estimate.value:.3f}" for name, score in scores.items()}
            for part, scores in self.students_see.items()
        }
        return self.comparison.table(columns)

    def header(self, part: str) -> str:
        """What the column of a part that students learn from is called."""
        measure = next(iter(self.students_see[part].values())).measure
        return f"{'Brier' if measure == 'brier' else measure} {_PARTS[part]}"

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain data: the comparison's, and of each teacher ``reliability`` and ``students_see``."""
        content = self.comparison.to_dict()
        for teacher in content["teachers"]:
            name = teacher["name"]
            teacher["reliability"] = {key: value.tolist() for key, value in asdict(self.reliability[name]).items()}
            teacher["students_see"] = {
                part: {"measure": s[name].measure, **asdict(s[name].estimate), "num_samples": s[name].num_samples}
                for part, s in self.students_see.items()
                if name in s
            }
        return content


@dataclass(frozen=True, eq=False)
class Assessment:
    """A ranking for each loss, and what a reader should know about all of them; made by `assess_candidates`."""

    rankings: tuple[Ranking, ...]
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and which of two scores predicts where two are shown."""
        shown = any(ranking.students_see for ranking in self.rankings)
        return (*([WHICH_PREDICTS] if shown else []), *self.notes)

    def to_dict(self) -> dict[str, Any]:
        """The assessment as plain data for JSON, with a ``schema_version``; None for what is not finite."""
        return files.finite(
            {
                "schema_version": SCHEMA,
                "rankings": [ranking.to_dict() for ranking in self.rankings],
                "candidates": {
                    candidate.name: [reference.model_dump(mode="json") for reference in candidate.references]
                    for candidate in self.candidates
                },
                "notes": list(self.notes),
            }
        )


def assess_candidates(
    candidates: Sequence[Candidate],
    *,
    labels: Array | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    ids: Array | None = None,
    losses: Sequence[str] = ("kd",),
    temperature: float | None = None,
    coefficients: Array | None = None,
    criterion: str = "brier",
    level: float = 0.95,
) -> Assessment:
    """Rank candidates under each loss, by held-out labels (or counts) alone.

    Args:
        candidates: what `read_candidates` gives, or your own.
        labels: class indices `(N,)`, in place of the candidates' own.
        counts: how many human raters chose each class, `(N, C)`, or for runs of one data set a row for each of its
            samples: then the samples that students learn from are scored by their distance, too.
        truth: the true label distribution, `(N, C)`, where it is known, in place of counts; its rows as theirs.
        ids: of the samples that `labels`, `counts` and `truth` are given for; compared with those of the candidates.
        losses: what students minimise; each is a ranking of its own.
        temperature: of ``ttm`` and ``wttm``, and of the Rényi entropy and the power sum.
        coefficients: of ``ptloss``.
        criterion: what ranks, as `preceptor.assess.compare`.
        level: of the intervals.

    Raises:
        InputError: unlike shapes, other samples or another order of samples or classes, no labels, a teacher that was
            trained on the samples it is compared on, or an option that does not suit the losses.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 60)
    >>> sure, unsure = (Candidate(f"{scale}", scale * np.eye(3)[labels] + rng.normal(size=(60, 3))) for scale in (3, 1))
    >>> [ranking.comparison.best for ranking in assess_candidates([unsure, sure], labels=labels).rankings]
    ['3']
    """
    _check_options(losses, temperature, coefficients, criterion, level)
    shape = common_shape({candidate.name: candidate.logits for candidate in candidates})
    refuse_seen(candidates)
    agree("ids", {"--data": ids} | {c.name: c.ids for c in candidates}, shape[0])
    agree("labels", {c.name: c.labels for c in candidates}, shape[0])
    agree("class_names", {c.name: c.class_names for c in candidates}, shape[1])
    known = _Known.of(candidates, labels, counts, truth, shape)
    rankings = [
        _rank(candidates, known, loss, temperature if loss != "ptloss" else None, coefficients, criterion, level)
        for loss in losses
    ]
    return Assessment(tuple(rankings), tuple(candidates), tuple(_notes(candidates, known, ids)))


def assess_files(
    names: Sequence[str | Path],
    *,
    labels: Path | None = None,
    counts: Path | None = None,
    truth: Path | None = None,
    samples: Path | None = None,
    coefficients: str | None = None,
    data: Any = None,
    data_dir: Path | str | None = None,
    probabilities: bool = False,
    transfer: bool | None = None,
    progress: bool = False,
    losses: Sequence[str] = ("kd",),
    temperature: float | None = None,
    criterion: str = "brier",
    level: float = 0.95,
) -> Assessment:
    """``preceptor assess``: read candidates, labels and options by name, and rank.

    Args:
        names: as `read_candidates`.
        labels: a ``.npy`` file.
        counts: a ``.npy`` file.
        truth: a ``.npy`` file.
        samples: an ``.npz`` or Parquet file of labels, counts, truth and ids; the three files above come before it.
        coefficients: numbers with commas between them, or a ``.npy`` file.

    All others, and raises, as `read_candidates` and `assess_candidates`.
    """
    eps = None if coefficients is None else _coefficients(coefficients)
    _check_options(losses, temperature, eps, criterion, level)  # before anything is computed
    if samples is not None and samples.suffix == ".npy":
        raise InputError(f"'{samples}' is one array; say what it is with --labels, --counts or --truth")
    table = tables.Table() if samples is None else tables.read_table(samples)
    known_labels = table.labels if labels is None else tables.read_array(labels)
    known_counts = table.counts if counts is None else tables.read_array(counts)
    known_truth = table.truth if truth is None else tables.read_array(truth)
    candidates = read_candidates(
        names, data=data, data_dir=data_dir, probabilities=probabilities, transfer=transfer, progress=progress
    )
    return assess_candidates(
        candidates,
        labels=known_labels,
        counts=known_counts,
        truth=known_truth,
        ids=table.ids,
        losses=losses,
        temperature=temperature,
        coefficients=eps,
        criterion=criterion,
        level=level,
    )


def _coefficients(text: str) -> np.ndarray:
    if text.endswith(".npy"):
        return tables.read_array(Path(text))
    try:
        return np.array([float(number) for number in text.split(",")])
    except ValueError:
        raise InputError(
            f"the coefficients are '{text}'; give numbers with commas between them, such as 0.5,0.1, or a .npy file"
        ) from None


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of the true classes: of the held-out samples, and of others by their position in the data set.

    Of `counts` and `probs` (the truth itself) one is known, or neither.
    """

    labels: np.ndarray
    counts: np.ndarray | None = None
    probs: np.ndarray | None = None
    all_counts: np.ndarray | None = None
    all_probs: np.ndarray | None = None
    drawn: bool = False
    """The labels are drawn from the counts or the truth, as none were given."""
    partly: bool = False
    """A table of all samples was given, which says too little for a distance of some that students learn from."""

    @classmethod
    def of(
        cls,
        candidates: Sequence[Candidate],
        labels: Array | None,
        counts: Array | None,
        truth: Array | None,
        shape: tuple[int, int],
    ) -> "_Known":
        if counts is None and truth is None:
            counts = agreed("counts", candidates)
            truth = agreed("truth", candidates) if counts is None else None
        positions = next((c.ids for c in candidates if c.trained_on is not None), None)
        of_heldout, of_all = _rows(counts, positions, shape[0])
        probs, all_probs = _rows(truth, positions, shape[0])
        own = next((c.labels for c in candidates if c.labels is not None), None)
        found = own if labels is None else to_numpy(labels)
        if found is None and of_heldout is None and probs is None:
            raise InputError(
                "there are no labels: give --labels, --counts or --truth FILE.npy, or --data FILE.npz or .parquet with "
                "'labels', or put them into the files of logits"
            )
        labels = _drawn(of_heldout, probs, shape) if found is None else found
        seen = [view.ids for candidate in candidates for view in candidate.students_see.values()]
        too_few = of_all is not None and any((of_all[ids].sum(-1) < 2).any() for ids in seen)
        unknown = all_probs is not None and any(np.isnan(all_probs[ids]).any() for ids in seen)
        return cls(labels, of_heldout, probs, of_all, all_probs, drawn=found is None, partly=too_few or unknown)

    @property
    def everywhere(self) -> bool:
        """Whether a distance can be told on the samples that students learn from, too."""
        return not self.partly and (self.all_counts is not None or self.all_probs is not None)

    def distance(self, probs: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Squared distance of the samples at these positions of the data set."""
        if self.all_probs is not None:
            return assess.squared_distance(probs, self.all_probs[ids])
        assert self.all_counts is not None
        return assess.rater_distance(probs, self.all_counts[ids])


def _drawn(counts: np.ndarray | None, truth: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """A label (N,) of each sample, distributed as the raters' opinions or the truth are."""
    known = assess.forecast(truth, probabilities=True).probs if truth is not None else None
    shares = assess.rater_frequencies(counts, shape)[1] if known is None else known  # type: ignore[arg-type]
    check_same_shape("The true label distributions", shares.shape, shape)
    return draw_labels(shares)


def _rows(
    table: Array | None, positions: np.ndarray | None, num_samples: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A table's rows of the held-out samples, and the whole of it where it is one of all samples of a data set."""
    if table is None:
        return None, None
    table = to_numpy(table)
    rows = heldout_rows(table, positions, num_samples)
    return rows, None if rows is table else table


def _check_options(
    losses: Sequence[str], temperature: float | None, coefficients: Array | None, criterion: str, level: float
) -> None:
    """Refuse what no candidate could be scored with, before any is read."""
    check_level(level)
    if criterion not in CRITERIA:
        raise InputError(f"there is no criterion {criterion!r}; {did_you_mean(criterion, CRITERIA)}")
    if len(set(losses)) != len(losses) or not losses:
        raise InputError(f"the losses are {list(losses)}; give at least one, and each once")
    if coefficients is not None and "ptloss" not in losses:
        raise InputError(
            f"coefficients are given for the losses {list(losses)}; only ptloss takes them: add --loss ptloss"
        )
    if temperature is not None and set(losses) == {"ptloss"}:
        raise InputError("a temperature is given for ptloss, which has none; leave --temperature out")
    for loss in losses:
        if loss != "ptloss" or coefficients is None:
            assess.optimum([[0.0, 0.0]], loss, temperature=temperature)


def _rank(
    candidates: Sequence[Candidate],
    known: _Known,
    loss: str,
    temperature: float | None,
    coefficients: Array | None,
    criterion: str,
    level: float,
) -> Ranking:
    eps = coefficients if loss == "ptloss" else None
    comparison = assess.compare(
        {candidate.name: candidate.logits for candidate in candidates},
        known.labels,
        counts=known.counts,
        truth=known.probs,
        class_names=next((c.class_names for c in candidates if c.class_names is not None), None),
        loss=loss,
        temperature=temperature,
        coefficients=eps,
        criterion=criterion,
        level=level,
    )

    def optimum(logits: np.ndarray) -> Forecast:
        return assess.forecast(assess.optimum(logits, loss, temperature=temperature, coefficients=eps))

    bins = {c.name: assess.reliability(optimum(c.logits), known.labels) for c in candidates}
    seen = {}
    for part in _PARTS:
        views = {c.name: c.students_see[part] for c in candidates if part in c.students_see}
        # One teacher at a time: a training set's probabilities are large, and there may be many epochs.
        values = {name: _seen_values(optimum(view.logits), view, known) for name, view in views.items()}
        seen[part] = _seen_scores(values, "distance" if known.everywhere else "brier", level)
    return Ranking(comparison, bins, {part: scores for part, scores in seen.items() if scores})


def _seen_values(prediction: Forecast, samples: Predictions, known: _Known) -> np.ndarray:
    if known.everywhere:
        return known.distance(prediction.probs, samples.ids)
    return assess.brier(prediction, samples.labels)


def _seen_scores(values: Mapping[str, np.ndarray], measure: str, level: float) -> dict[str, SeenScore]:
    """Scores of one part, by candidate; those with equally many samples share their resamples."""
    found: dict[str, SeenScore] = {}
    for size in {len(each) for each in values.values()}:
        group = {name: each for name, each in values.items() if len(each) == size}
        ends = percentile_intervals(assess.bootstrap_means(np.stack(list(group.values()))), level)
        for name, low, high in zip(group, *ends, strict=True):
            found[name] = SeenScore(measure, Estimate(float(group[name].mean()), float(low), float(high)), size)
    return found


def _notes(candidates: Sequence[Candidate], known: _Known, ids: Array | None) -> list[str]:
    """What a reader should know before believing a ranking."""
    found = []
    if known.drawn:
        found.append(
            f"No labels were given: one a sample was drawn from the {'truth' if known.counts is None else 'counts'}, "
            "for the scores that need them; the distance does not."
        )
    if known.partly:
        found.append(
            "Of some samples that students learn from fewer than two raters or no truth is known, so scores there are "
            "Brier scores and not distances; give counts or a truth for all of them to have distances."
        )
    selected = [c.name for c in candidates if any(_fitted_here(reference) for reference in c.references)]
    if selected:
        found.append(
            f"The weights or the temperature of {_listed(selected)} were selected on these held-out samples, so their "
            "scores here are too good, by a little; to rank them without bias, score them on labels that selected "
            "nothing."
        )
    if ids is not None or any(c.ids is not None for c in candidates):
        unchecked = [c.name for c in candidates if c.ids is None and c.labels is None]
        if unchecked:
            found.append(
                f"The order of the samples of {_listed(unchecked)} could not be checked, as neither ids nor labels "
                "came with the logits: in another order than that of the other teachers, the scores mean nothing."
            )
    for candidate in candidates:
        own = candidate.labels
        if own is not None and own.shape == known.labels.shape and (own != known.labels).any():
            found.append(
                f"The labels given differ from those of {candidate.name} in {(own != known.labels).sum()} samples; "
                "those given were used."
            )
        if candidate.unseen is not None:
            found.append(f"No score of {candidate.name} where students learn: {candidate.unseen.rstrip('.')}.")
    return found


def _fitted_here(reference: TeacherRef) -> bool:
    return reference.weights in ("best", "teaching") or reference.calibrated


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
