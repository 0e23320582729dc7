"""What a comparison of teachers says: their order, scores and differences, as a table, as text, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from preceptor.assess.calibration import Reliability
from preceptor.assess.intervals import Estimate
from preceptor.assess.text import as_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["WHICH_PREDICTS", "Comparison", "Difference", "SeenScore", "TeacherScores"]

SCHEMA_VERSION = 2

BINS = 15

# The page, the table and the documentation say the same.
WHICH_PREDICTS = (
    "The held-out score is the one that predicts students: where its labels served nothing else, the difference "
    "between two teachers is unbiased. The Brier score itself predicts how near to the truth students come, the one at "
    "the best temperature their accuracy. On its own training samples a teacher's score is too good, as it was fitted "
    "to their labels."
)
_PARTS = {"train": "on its own training samples (too good)", "transfer": "on transfer samples"}
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
class SeenScore:
    """A teacher's score on samples that its students learn from: reported, and never ranked by."""

    measure: str
    """``brier`` against labels, or ``distance`` where human counts or the truth of these samples are known."""
    estimate: Estimate
    num_samples: int


@dataclass(frozen=True)
class TeacherScores:
    """One teacher under one loss.

    Attributes:
        name: of the teacher.
        rank: None for a single teacher.
        scores: each with its interval.
        reliability: bins of what was scored.
        students_see: its scores on the samples that students learn from: ``train``, whose labels it was fitted to, and
            ``transfer``, whose labels it has not seen; where they are known.
        references: how a recipe names the runs that it is made of; empty for logits of one's own.
    """

    name: str
    rank: int | None
    scores: Mapping[str, Estimate]
    reliability: Reliability = field(compare=False)
    students_see: Mapping[str, SeenScore] = field(default_factory=dict, compare=False)
    references: tuple[Any, ...] = field(default=(), compare=False)

    def seen_value(self, part: str) -> str | None:
        """Its score on a part that students learn from, as the table shows it."""
        return f"{self.students_see[part].estimate.value:.3f}" if part in self.students_see else None


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
    """Teachers under one loss in order, best first, with their scores and paired differences; made by `compare`.

    Attributes:
        teachers: best first.
        differences: of all pairs.
        criterion: what ranks.
        num_samples, num_classes, class_names: of what was compared on.
        level, resamples, seed: of the intervals.
        loss, temperature, coefficients: what was asked for.
        scored: what of each teacher was scored, the loss's optimum, in words.
        notes: what a reader should know before believing it.
    """

    teachers: tuple[TeacherScores, ...]
    differences: tuple[Difference, ...]
    criterion: str
    num_samples: int
    num_classes: int
    class_names: tuple[str, ...] | None
    level: float
    resamples: int
    seed: int
    loss: str
    temperature: float | None
    coefficients: tuple[Any, ...] | None
    scored: str
    notes: tuple[str, ...] = ()

    columns: ClassVar[Mapping[str, str]] = _COLUMNS
    """Headers of scores that the table shows with their intervals."""
    plain_columns: ClassVar[Mapping[str, str]] = _PLAIN_COLUMNS
    """Headers of scores that it shows without."""

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

    @property
    def parts_seen(self) -> dict[str, str]:
        """The parts that students learn from on which teachers are scored, and what their columns are called."""
        found = {part: score.measure for t in self.teachers for part, score in t.students_see.items()}
        names = {part: "Brier" if measure == "brier" else measure for part, measure in found.items()}
        return {part: f"{names[part]} {where}" for part, where in _PARTS.items() if part in found}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and which of two scores predicts where two are shown."""
        return (*([WHICH_PREDICTS] if self.parts_seen else []), *self.notes)

    def __str__(self) -> str:
        return as_text(self.table(), self.remarks)

    def table(self) -> "Table":
        """The comparison as a `rich` table, with a column for each part that students learn from."""
        from rich.table import Table
        from rich.text import Text

        columns = [name for name in self.columns if name in self.teachers[0].scores]
        behind = {d.second: -d.estimate for d in self.differences if d.first == self.best}
        left: Any = {"title_justify": "left", "caption_justify": "left"}
        table = Table(title=self.title, caption=self.caption, **left)
        table.add_column("rank", justify="right")
        # Cut off, the epochs of one run would have one name.
        table.add_column("teacher", overflow="fold", min_width=min(12, max(len(t.name) for t in self.teachers)))
        plain = [name for name in self.plain_columns if name in self.teachers[0].scores]
        headers = ("behind", *(self.columns[name] for name in columns), *(self.plain_columns[name] for name in plain))
        for header in (*headers, *self.parts_seen.values()):
            table.add_column(header, justify="right")
        for teacher in self.teachers:
            cells = (
                teacher.rank,
                teacher.name,
                behind.get(teacher.name),
                *(teacher.scores[c] for c in columns),
                *(f"{teacher.scores[c].value:.3f}" for c in plain),
                *(teacher.seen_value(part) for part in self.parts_seen),
            )
            table.add_row(*(Text(_shown(cell)) for cell in cells))  # a name may hold brackets
        return table

    @property
    def title(self) -> str:
        """Of the table."""
        return f"Assessed for {self.loss}: {self.scored}"

    @property
    def caption(self) -> str:
        """Of the table."""
        caption = f"{self.num_samples} samples, {self.level:.0%} intervals."
        if self.differences:
            alone = " (of one rater a sample only differences are known)" if self._unknown_distance else ""
            caption += (
                f" Ranked by {self.criterion}{alone}; 'behind' is the paired difference to the best teacher, "
                f"simultaneous over all pairs; equal ranks are ties."
            )
        return caption

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
            "bins": BINS,
            "binning": "mass",
            "top_k": top_k(self.num_classes),
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
            "loss": self.loss,
            "temperature": self.temperature,
            "coefficients": None if self.coefficients is None else np.asarray(self.coefficients).tolist(),
        }


def top_k(num_classes: int) -> int:
    """The k of the top-k mass: with few classes the top five would hold everything and tell nothing."""
    return min(5, num_classes // 2)


def _shown(cell: object) -> str:
    """A cell of the table; an estimate without an interval is its value."""
    if isinstance(cell, Estimate) and isnan(cell.low) and isnan(cell.high):
        return f"{cell.value:.3f}"
    return "-" if cell is None else str(cell)


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(estimate).items()}
