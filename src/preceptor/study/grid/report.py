"""What a study found, for people: a table for the terminal, one for Markdown, a page, a picture.

All are made of ``study.json`` alone, and print the numbers as they are.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.assess.intervals import Estimate
from preceptor.runs import files
from preceptor.study import page, text
from preceptor.study.grid import pictures
from preceptor.study.grid.statistics import Cell, Foretold, Statistics, summarize
from preceptor.study.statistics import differs

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table

__all__ = ["markdown", "table", "write_picture", "write_report"]

_HEADERS = ("acc %", "Brier", "at best T", "NLL", "ECE %")
_SHORT = ("acc", "Brier", "at\nbest T")  # a terminal is narrow


def table(result: Mapping[str, Any]) -> "Table":
    """The study as one table for the terminal, a teacher a row, best predicted first.

    Args:
        result: the content of ``study.json``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    statistics = summarize(result)
    title = f"{result['name']}: what each teacher's students gain over labels alone, in points of test accuracy"
    rendered = Table(
        title=Text(title, style="bold"),
        caption=Text(_caption(statistics)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1, 0, 0),
    )
    rendered.add_column("#", justify="right")
    rendered.add_column("teacher", no_wrap=True)
    for header in _SHORT:
        rendered.add_column(header, justify="right", no_wrap=True)
    # Where the terminal is narrow these wrap, and nothing is cut off.
    for loss in statistics.losses:
        rendered.add_column(Text(loss), justify="right", min_width=6)
    for row in _rows(statistics):
        gains = [Text(_gain(cell), style=_style(cell)) for cell in row.cells]
        rendered.add_row(row.rank, Text(row.teacher), *row.scores[: len(_SHORT)], *gains)
    rendered.add_section()
    for label, foretold in _foretold(statistics):
        found = [page.number(foretold.correlation[loss].value, 2) for loss in statistics.losses]
        rendered.add_row("", Text(label), *[""] * len(_SHORT), *found)
    return rendered


def markdown(result: Mapping[str, Any]) -> str:
    """The same table in GitHub's Markdown, with how it was made below.

    Args:
        result: the content of ``study.json``.
    """
    statistics = summarize(result)
    headers = ["#", "teacher", *_HEADERS, *map(text.markdown_text, statistics.losses)]
    rows = [
        [row.rank, text.markdown_text(row.teacher), *row.scores, *(text.difference(c.difference) for c in row.cells)]
        for row in _rows(statistics)
    ]
    for label, foretold in _foretold(statistics):
        rows.append(["", label, *[""] * len(_HEADERS), *map(_correlation, foretold.correlation.values())])
    grid = text.markdown_table(headers, rows, left=1)
    return f"{grid}\n\n{_caption(statistics)}\n\n{text.made_by(result)}\n"


def write_report(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the study as one HTML file that needs no network: findings, pictures, table, how it was made.

    Args:
        result: the content of ``study.json``.
        path: of the page; its folder is made if need be, and the file is whole or absent.
    """
    import yaml

    statistics = summarize(result)
    values = {
        "result": result,
        "statistics": statistics,
        "findings": list(_findings(statistics)),
        "heat_map": _heat_map(statistics),
        "foretold_panels": [_foretold_panel(statistics, label, each) for label, each in _foretold(statistics)],
        "reliability_panels": [_reliability_panel(statistics, i) for i in range(len(statistics.teachers))],
        "headers": _HEADERS,
        "rows": _rows(statistics),
        "foretold": [(label, [*map(_correlation, f.correlation.values())]) for label, f in _foretold(statistics)],
        "gain": _gain,
        "style": _style,
        "caption": _caption(statistics),
        "circumstances": text.facts(result),
        "recipe": yaml.safe_dump(files.finite(result["recipe"]), sort_keys=False, allow_unicode=True),
    }
    return page.write("grid/report.html.j2", path, values)


def write_picture(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the pictures of the report as one PNG, 1600 pixels wide, on white.

    Args:
        result: the content of ``study.json``.
        path: of the picture; its folder is made if need be, and the file is whole or absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.to_png(summarize(result), path)
    return path


# The table


@dataclass(frozen=True)
class _Row:
    rank: str
    teacher: str
    scores: tuple[str, ...]
    cells: tuple[Cell, ...]


def _rows(statistics: Statistics) -> list[_Row]:
    return [
        _Row(
            rank=str(teacher.rank or page.MISSING),
            teacher=teacher.name,
            scores=(
                page.number(100 * teacher.scores["accuracy"].value, 1),
                page.number(teacher.scores["brier"].value, 3),
                page.number(teacher.scores["brier_recalibrated"].value, 3),
                page.number(teacher.scores["nll"].value, 3),
                page.number(100 * teacher.scores["calibration_error"].value, 1),
            ),
            cells=tuple(statistics.cells[teacher.name, loss] for loss in statistics.losses),
        )
        for teacher in statistics.teachers
    ]


def _foretold(statistics: Statistics) -> Iterator[tuple[str, Foretold]]:
    """What held-out labels foretell, by what the tables call its correlation."""
    if statistics.accuracy is not None:
        yield "ρ accuracy", statistics.accuracy
    yield "ρ distance", statistics.distance


def _correlation(rho: Estimate) -> str:
    if not math.isfinite(rho.low):
        return page.number(rho.value, 2)
    return f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"


def _gain(cell: Cell) -> str:
    return text.plus_minus(cell.difference, sign=True)


def _style(cell: Cell) -> str:
    """Green or red, and bold, only where the interval excludes 0."""
    if not differs(cell.difference):
        return ""
    return "bold green" if cell.difference.value > 0 else "bold red"


def _caption(statistics: Statistics) -> str:
    """What the columns are, in full sentences."""
    baseline = f"Student on labels alone: {text.plus_minus(text.percent(statistics.baseline))} % test accuracy."
    known = statistics.accuracy is not None
    at_best = "Brier at best T (the best temperature), " if known else ""
    scores = (
        f"acc, Brier, {at_best}NLL, ECE (calibration error): the teacher on held-out labels; #: the rank that its Brier"
        f"{' at best T' * known} predicts."
    )
    rho = (
        "ρ: Spearman's correlation over the teachers of held-out scores of what the loss makes of them with what their "
        f"students became; {'accuracy: Brier at best T with test accuracy; ' * known}distance: Brier with test Brier, "
        "which tells how near to the truth they are."
    )
    if statistics.num_seeds == 1:
        return f"{baseline} {scores} {rho} One seed: no interval, and no difference can be told from luck."
    spread = (
        f"±: half the 95 % Student-t interval over {statistics.num_seeds} seeds, of the difference to labels alone "
        "paired by seed; bold where it excludes 0."
    )
    return f"{baseline} {scores} {spread} {rho}"


# The page


def _findings(statistics: Statistics) -> "Iterator[Markup]":
    """What the numbers say, sentence by sentence, and what they do not."""
    if statistics.num_seeds == 1:
        yield page.sentence(
            "Only one seed was run: there are no intervals, and no difference below can be told from luck."
        )
    yield _predicted(statistics)
    unranked = ", ".join(teacher.name for teacher in statistics.teachers if teacher.rank is None)
    if unranked:
        yield page.sentence("Not ranked, as their Brier score is not finite for every seed: {}.", page.strong(unranked))
    yield _realised(statistics)
    yield from _best_pair(statistics)
    if statistics.num_seeds > 1:
        yield _tally(statistics)
    yield from _agreement(statistics)


def _predicted(statistics: Statistics) -> "Markup":
    best, *others = statistics.teachers
    if best.rank is None:
        return page.sentence("No teacher is predicted to be the best.")
    key, where = ("brier", "") if statistics.accuracy is None else ("brier_recalibrated", " at the best temperature")
    name, score = page.strong(best.name), page.interval(best.scores[key], 3)
    if not others or statistics.predicted_lead is None:
        return page.sentence(
            f"The only teacher to rank, {{}}, has a Brier score{where} of {{}} on held-out labels.", name, score
        )
    return page.sentence(
        f"Predicted best: {{}}, with the lowest Brier score{where} on held-out labels, {{}}. "
        + page.lead(statistics.predicted_lead),
        name,
        score,
        page.strong(others[0].name),
        page.interval(statistics.predicted_lead, 4),
    )


def _realised(statistics: Statistics) -> "Markup":
    ranked = [teacher for teacher in statistics.teachers if math.isfinite(teacher.students.value)]
    ranked.sort(key=lambda teacher: -teacher.students.value)
    if not ranked:
        return page.sentence("No teacher's students have a finite test accuracy under every loss.")
    best, *others = ranked
    name, accuracy = page.strong(best.name), page.interval(text.percent(best.students), 2, unit=" %")
    if not others or statistics.realised_lead is None:
        return page.sentence("The students of {} reach {} test accuracy, averaged over the losses.", name, accuracy)
    return page.sentence(
        "Realised best: {}, whose students reach {} test accuracy, averaged over the losses. "
        + page.lead(statistics.realised_lead),
        name,
        accuracy,
        page.strong(others[0].name),
        page.interval(statistics.realised_lead, 2, unit=" points"),
    )


def _best_pair(statistics: Statistics) -> "Iterator[Markup]":
    known = [cell for cell in statistics.cells.values() if math.isfinite(cell.difference.value)]
    if not known:
        return
    best = max(known, key=lambda cell: cell.difference.value)
    finding = "The most accurate students came from {} with {}: {} %, which is {} against labels alone"
    if math.isfinite(best.difference.low) and not differs(best.difference):
        finding += ", an interval that contains 0"
    finding += "."
    if len(known) > 1:
        finding += f" This is the best of {len(known)} picked after the fact, so expect less of it on new seeds."
    accuracy = page.number(100 * best.accuracy.value, 2)
    gain = page.interval(best.difference, 2, unit=" points", sign=True)
    yield page.sentence(finding, page.strong(best.teacher), page.strong(best.loss), accuracy, gain)


def _tally(statistics: Statistics) -> "Markup":
    cells = statistics.cells.values()
    better = sum(differs(cell.difference) and cell.difference.value > 0 for cell in cells)
    worse = sum(differs(cell.difference) and cell.difference.value < 0 for cell in cells)
    return page.sentence(
        "Counting the pairs of teacher and loss whose interval excludes 0: {} of {} did better than labels alone, {} "
        "did worse, and the other {} cannot be told from it. Each interval holds by itself: where nothing differs, "
        "about 1 in 20 still excludes 0.",
        *(str(number) for number in (better, len(cells), worse, len(cells) - better - worse)),
    )


def _agreement(statistics: Statistics) -> "Iterator[Markup]":
    if statistics.accuracy is None:
        yield page.sentence(
            "What predicts the accuracy, the Brier score at the best temperature, is not in this study, which an older "
            "version has made; run it again to see that prediction."
        )
    else:
        what = "their students' accuracy, by the Brier score at the best temperature"
        yield _foretelling(statistics.accuracy.pooled, what, statistics)
    yield _foretelling(
        statistics.distance.pooled, "how near to the truth their students come, by the Brier score", statistics
    )


def _foretelling(rho: Estimate, what: str, statistics: Statistics) -> "Markup":
    """One prediction: how well it ranks the teachers."""
    if math.isnan(rho.value):
        return page.sentence("The teachers have no two distinct ranks: nothing can be said about predicting {}.", what)
    if math.isnan(rho.low):
        verdict = "Without an interval this is no evidence either way."
    elif not differs(rho):
        verdict = "The interval contains 0: this study does not show that held-out labels foretell it."
    elif rho.value > 0:
        verdict = "The interval excludes 0: here, held-out labels foretold it."
    else:
        verdict = "The interval excludes 0 on the wrong side: here, the prediction was misleading."
    return page.sentence(
        "Predicted and realised order of the teachers for {} agree with Spearman's ρ = {}, all losses taken together. "
        + verdict
        # An interval over seeds is easily read as one over teachers.
        + " It speaks of {} only: other teachers may rank otherwise.",
        what,
        page.interval(rho, 2),
        f"these {len(statistics.teachers)} teachers",
    )


def _heat_map(statistics: Statistics) -> "Markup":
    cells = statistics.cells.values()
    values = ", ".join(f"{cell.teacher} with {cell.loss} {pictures.points(cell)}" for cell in cells)
    alt = f"Heat map of student accuracy, difference to labels alone in points: {values}."
    width, height = 90 * len(statistics.losses) + 130, 38 * len(statistics.teachers) + 120
    return page.svg(lambda figure: pictures.heat_map(figure, statistics), width, height, alt, axes=False)


def _foretold_panel(statistics: Statistics, label: str, foretold: Foretold) -> "Markup":
    pairs = (f"{loss} {_correlation(rho)}" for loss, rho in foretold.correlation.items())
    alt = f"What students became against what held-out labels foretold; {label}: {', '.join(pairs)}."
    return page.svg(lambda axes: pictures.foretold_panel(axes, statistics, foretold), 640, 340, alt)


def _reliability_panel(statistics: Statistics, index: int) -> "Markup":
    teacher = statistics.teachers[index]
    error = page.number(100 * teacher.scores["calibration_error"].value, 1)
    alt = f"Reliability diagram of {teacher.name}: calibration error {error} %."
    return page.svg(lambda axes: pictures.teacher_reliability(axes, statistics, teacher), 232, 250, alt)
