"""The page of an assessment: what the rankings say, their pictures, all scores."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.assess import Comparison, Estimate, TeacherScores, TokenComparison
from preceptor.errors import InputError
from preceptor.runs import circumstances
from preceptor.runs.references import name_of
from preceptor.study import page, pictures
from preceptor.study.teachers.assessment import Assessment
from preceptor.study.teachers.pictures import epochs_panel, score_panel

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["write_page"]

# Name, header, factor and digits of a column; those with an interval show it below.
_COLUMNS = (
    ("distance", "distance ↓", 1, 4, True),
    ("brier", "Brier ↓", 1, 4, True),
    ("brier_calibration", "of it calibration ↓", 1, 4, False),
    ("brier_refinement", "of it refinement ↓", 1, 4, False),
    ("brier_recalibrated", "at best T ↓", 1, 4, True),
    ("accuracy", "acc % ↑", 100, 1, True),
    ("nll", "NLL ↓", 1, 3, True),
    ("calibration_error", "ECE % ↓", 100, 1, True),
    ("sharpness", "sharpness", 1, 3, False),
    ("entropy", "entropy", 1, 3, False),
    ("top_k_mass", "top-K mass", 1, 3, False),
    ("renyi_entropy", "Rényi entropy at T", 1, 3, False),
    ("power_sum", "power sum at T", 1, 3, False),
)
_MOST_DIAGRAMS, _MOST_DOTS = 12, 30
_LONGEST_NAME = 40


def write_page(assessment: Assessment, path: Path | str, *, command: str | None = None) -> Path:
    """Write an assessment as one HTML file that needs no network.

    Args:
        assessment: made by `assess_teachers`.
        path: of the page; its folder is made if need be, and the file is whole or absent.
        command: that made it.

    Raises:
        InputError: it is of teachers of tokens, or the page cannot be written.
    """
    first = assessment[0]
    if isinstance(first, TokenComparison):
        raise InputError("teachers of tokens have no page; leave page out, the table says all", argument="page")
    values = {
        "first": first,
        "count": len(first.teachers),
        "findings": [*_findings(assessment), *assessment.remarks],
        "sections": [_section(comparison) for comparison in assessment],
        "made": _made(first, command),
    }
    return page.write("teachers/assessment.html.j2", path, values)


@dataclass(frozen=True)
class _Section:
    """What the page shows of one comparison."""

    loss: str
    scored: str
    measure: str
    dots: "Markup"
    epochs: "Markup | None"
    diagrams: "list[Markup]"
    left_out: int
    undotted: int
    headers: list[str]
    rows: list[tuple[str, str, list[tuple[str, str]]]]
    top_k: int


def _section(comparison: Comparison) -> _Section:
    names = _shortener(comparison)
    shown = comparison.teachers[:_MOST_DIAGRAMS]
    headers, rows = _table(comparison)
    return _Section(
        loss=comparison.loss,
        scored=comparison.scored,
        measure=_measure_name(comparison),
        dots=_dot_plot(comparison, names),
        epochs=_along_epochs(comparison, names),
        diagrams=_diagrams(shown, names),
        left_out=len(comparison.teachers) - len(shown),
        undotted=max(0, len(comparison.teachers) - _MOST_DOTS),
        headers=headers,
        rows=rows,
        top_k=comparison.to_dict()["top_k"],
    )


# Findings


def _findings(assessment: Assessment) -> "Iterator[Markup]":
    if len(assessment[0].teachers) == 1:
        yield page.sentence("There is one teacher: it is scored and not ranked.")
        return
    yield from map(_winner, assessment)
    best = {comparison.best for comparison in assessment}
    if len(best) > 1:
        yield page.sentence(
            "The losses disagree on the best: each makes something else of a teacher, so a ranking holds for its loss."
        )


def _winner(comparison: Comparison) -> "Markup":
    best, second = comparison.teachers[:2]
    ahead = -next(d.estimate for d in comparison.differences if (d.first, d.second) == (best.name, second.name))
    tied = [d.second for d in comparison.differences if d.first == best.name and d.tie]
    text = "Under {} the best teacher is {}, with a {} of {} on held-out samples. " + page.lead(ahead)
    if len(tied) > 1:
        text += f" In all, {len(tied)} teachers cannot be told from the best."
    score = best.scores[_measure(comparison)]
    measure = _measure_name(comparison)
    words = (page.strong(comparison.loss), page.strong(best.name), measure, page.interval(score, 4))
    return page.sentence(text, *words, page.strong(second.name), page.interval(ahead, 4))


def _measure(comparison: Comparison) -> str:
    """The score that ranks; with one rater a sample there is no distance, and the Brier score ranks alike."""
    return comparison.criterion if comparison.criterion in comparison.teachers[0].scores else "brier"


def _measure_name(comparison: Comparison) -> str:
    names = {
        "brier": "Brier score",
        "brier_recalibrated": "Brier score at the best temperature",
        "distance": "distance to the truth",
    }
    return names[_measure(comparison)]


# Pictures


def _dot_plot(comparison: Comparison, names: Callable[[str], str]) -> "Markup":
    behind = {d.second: -d.estimate for d in comparison.differences if d.first == comparison.best}
    teachers = comparison.teachers[:_MOST_DOTS]
    score = {teacher.name: teacher.scores[_measure(comparison)] for teacher in teachers}
    rows = [(names(name), estimate, behind.get(name)) for name, estimate in score.items()]
    groups = [teacher.rank or 1 for teacher in teachers]
    labels = (f"{_measure_name(comparison)} (less is better)", "behind the best")
    listed = ", ".join(f"{name} {page.interval(estimate, 4)}" for name, estimate in score.items())
    alt = f"Dot plot of the {_measure_name(comparison)} under {comparison.loss}: {listed}."
    draw = lambda figure: score_panel(figure, rows, groups, labels)  # noqa: E731
    return page.svg(draw, 680, 26 * len(rows) + 64, alt, axes=False)


def _along_epochs(comparison: Comparison, names: Callable[[str], str]) -> "Markup | None":
    """The score along the epochs of every run of which several are among the teachers."""
    series: dict[str, list[tuple[int, Estimate]]] = {}
    for teacher in comparison.teachers:
        if len(teacher.references) == 1 and (epoch := teacher.references[0].epoch) is not None:
            run = name_of(teacher.references[0].model_copy(update={"epoch": None}))
            series.setdefault(names(run), []).append((epoch, teacher.scores[_measure(comparison)]))
    series = {name: sorted(points, key=lambda point: point[0]) for name, points in series.items() if len(points) > 1}
    if not series:
        return None
    listed = "; ".join(
        f"{name}: " + ", ".join(f"epoch {epoch} {page.number(score.value, 4)}" for epoch, score in points)
        for name, points in series.items()
    )
    alt = f"{_measure_name(comparison)} along the epochs under {comparison.loss}. {listed}."
    label = _measure_name(comparison)
    return page.svg(lambda figure: epochs_panel(figure.subplots(), series, label), 680, 280, alt, axes=False)


def _diagrams(teachers: Sequence[TeacherScores], names: Callable[[str], str]) -> "list[Markup]":
    bins = {teacher.name: asdict(teacher.reliability) for teacher in teachers}
    scale = pictures.reliability_scale(list(bins.values()))
    found = []
    for teacher in teachers:
        error = teacher.scores["calibration_error"].value
        alt = f"Reliability diagram of {teacher.name}: calibration error {page.number(100 * error, 1)} %."

        def draw(axes: Any, name: str = teacher.name, error: float = error) -> None:
            pictures.reliability_panel(axes, _cut(names(name), 26), bins[name], error, scale)

        found.append(page.svg(draw, 232, 250, alt))
    return found


def _shortener(comparison: Comparison) -> Callable[[str], str]:
    """Shortens names: without the folder that all runs lie in, so that pictures have room for them."""
    folders = [os.path.dirname(reference.run) for teacher in comparison.teachers for reference in teacher.references]
    alike = len({os.path.isabs(folder) for folder in folders}) == 1
    common = os.path.commonpath(folders) if alike else ""
    prefix = os.path.join(common, "") if common.strip(os.sep) else ""
    return lambda name: _cut(name.replace(prefix, "") if prefix else name, _LONGEST_NAME)


def _cut(name: str, most: int) -> str:
    """A long name without its middle: beginnings and endings tell runs apart."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


# The table


def _table(comparison: Comparison) -> tuple[list[str], list[tuple[str, str, list[tuple[str, str]]]]]:
    """Headers, and of each teacher rank, name and cells of a value and its interval."""
    columns = [column for column in _COLUMNS if column[0] in comparison.teachers[0].scores]
    # Where students learn stands beside the held-out score that ranks.
    place = next(i for i, column in enumerate(columns) if column[0] == _measure(comparison)) + 1
    headers = [header for _, header, *_ in columns]
    if comparison.parts_seen:
        headers[place - 1] += " held out"
    headers[place:place] = comparison.parts_seen.values()
    rows = []
    for teacher in comparison.teachers:
        cells = [_cell(teacher.scores[key], factor, digits, shown) for key, _, factor, digits, shown in columns]
        known = [teacher.students_see.get(part) for part in comparison.parts_seen]
        cells[place:place] = [_cell(s.estimate, 1, 4, True) if s else (page.MISSING, "") for s in known]
        rows.append((str(teacher.rank or page.MISSING), teacher.name, cells))
    return headers, rows


def _cell(estimate: Estimate, factor: int, digits: int, shown: bool) -> tuple[str, str]:
    value, low, high = (
        page.number(factor * number, digits) for number in (estimate.value, estimate.low, estimate.high)
    )
    return value, f"{low} to {high}" if shown else ""


def _made(comparison: Comparison, command: str | None) -> dict[str, str]:
    known = {
        "command": command,
        "held out": f"{comparison.num_samples} samples of {comparison.num_classes} classes",
        "intervals": f"{comparison.level:.0%}, {comparison.resamples} bootstrap resamples, seed {comparison.seed}",
        **page.made_with(circumstances("cpu")),
    }
    return {name: str(value) for name, value in known.items() if value not in (None, "")}
