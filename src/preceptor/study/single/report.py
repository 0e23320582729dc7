"""The report of a run, made of its folder alone."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor import runs
from preceptor.errors import InputError
from preceptor.recipe import Recipe, dump
from preceptor.runs.integrity import checked
from preceptor.study import page, pictures
from preceptor.study.text import markdown_table, markdown_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Report", "markdown", "read_report", "write_picture", "write_report"]

_COLUMNS = ("accuracy", "brier", "nll", "calibration_error")
_HEADERS = ("accuracy % ↑", "Brier ↓", "NLL ↓", "calibration error % ↓")
_PERCENT = ("accuracy", "calibration_error")
_WIDTH, _HEIGHT = 680, 250


@dataclass(frozen=True)
class Report:
    """A complete run of a single model."""

    folder: Path
    recipe: Recipe
    result: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    """A line of ``metrics.jsonl`` each."""

    @property
    def rows(self) -> list[tuple[str, str, list[str]]]:
        """Weights, part, and a cell for each score; above them a student's teacher."""
        teacher = self.result.get("teacher")
        rows = [("teacher", teacher["part"], teacher)] if teacher else []
        rows += [
            (weights, part, scores)
            for part in ("heldout", "test")
            for weights, scores in (self.result[part] or {}).items()
        ]
        return [(weights, part, [_cell(name, scores.get(name)) for name in _COLUMNS]) for weights, part, scores in rows]


def read_report(folder: Path) -> Report:
    """What there is to tell of a run.

    Raises:
        InputError: it is no run, not complete, or a stack.
    """
    result, recipe = runs.read_result(folder), runs.read_recipe(folder)
    if result.get("members"):
        raise InputError(
            f"'{folder}' is a stack of {result['members']} models, and a report is of one; give a run of one, or score "
            f"each by preceptor assess {folder}:member-0"
        )
    lines = checked(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Report(folder, recipe, result, tuple(json.loads(line) for line in lines))


def write_report(report: Report, path: Path) -> Path:
    """Write the page; returns its path.

    Raises:
        InputError: there is another file, or it cannot be written.
    """
    curves = page.svg(lambda figure: _curves(figure, report), _WIDTH, _HEIGHT, _alt(report), axes=False)
    values = {
        "name": str(report.folder),
        "lede": _lede(report),
        "notes": report.result.get("notes") or [],
        "headers": _HEADERS,
        "rows": report.rows,
        "curves": curves if report.epochs else None,
        "best": _best(report),
        "made": {name: value for name, value in _made(report).items() if value not in (None, "")},
        "recipe": dump(report.recipe),
    }
    return page.write("single/report.html.j2", path, values)


def write_picture(report: Report, path: Path) -> Path:
    """The learning curve as a PNG; returns its path.

    Raises:
        InputError: there is another file, or it cannot be written.
    """
    with pictures.png(_WIDTH, _HEIGHT, path) as figure:
        _curves(figure, report)
    return path


def markdown(report: Report) -> str:
    """The scores in GitHub's Markdown."""
    rows = [[weights, part, *cells] for weights, part, cells in report.rows]
    table = markdown_table(("weights", "part", *_HEADERS), rows)
    return f"{markdown_text(report.folder)}: {markdown_text(_lede(report))}\n\n{table}"


def _cell(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return page.MISSING
    return f"{100 * value:.2f}" if name in _PERCENT else f"{value:.4f}"


def _lede(report: Report) -> str:
    recipe = report.recipe
    model = recipe.model.name if recipe.model else "a model of somebody's own"
    what = "A teacher" if report.result["verb"] == "teach" else "A student"
    return (
        f"{what}: {model} on {recipe.data_name}, {report.result['num_parameters']:,} parameters, "
        f"{recipe.training.epochs} epochs."
    )


def _best(report: Report) -> int | None:
    """The number of epochs after which the best weights were saved."""
    best = report.result.get("best_epoch")
    return None if best is None else best + 1


def _made(report: Report) -> dict[str, Any]:
    seconds = report.result.get("time_total")
    made = {"seed": report.recipe.seed, **page.made_with(report.result["circumstances"])}
    return made | {"time": None if seconds is None else f"{seconds:.0f} s"}


def _curves(figure: "Figure | SubFigure", report: Report) -> None:
    """Left what training minimised, right the held-out Brier score, the best epoch marked."""
    from matplotlib.ticker import MaxNLocator

    panels: Any = figure.subplots(1, 2)
    for axes, (title, series) in zip(panels, _series(report).items(), strict=True):
        for position, (name, values) in enumerate(series.items()):
            color = (pictures.ACCENT, pictures.OVER, pictures.UNDER, pictures.INK)[position % 4]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, color=color, linewidth=1.8, label=name, marker="." if len(values) < 3 else None)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=10)
        axes.set(xlabel="epochs", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    best, [brier] = _best(report), _series(report)["held-out Brier score"].values()
    if best is not None and best <= len(brier):
        panels[1].plot(best, brier[best - 1], "o", color=pictures.ACCENT, markersize=8, markeredgecolor=pictures.PAPER)


def _series(report: Report) -> dict[str, dict[str, list[float]]]:
    def along(part: str, name: str) -> list[float]:
        values: Iterator[Any] = (line.get(part, {}).get(name) for line in report.epochs)
        return [math.nan if value is None else float(value) for value in values]

    parts: Sequence[str] = list(dict.fromkeys(name for line in report.epochs for name in line.get("train", {})))
    return {
        "what training minimised": {name: along("train", name) for name in parts},
        "held-out Brier score": {"heldout": along("heldout", "brier")},
    }


def _alt(report: Report) -> str:
    [brier] = _series(report)["held-out Brier score"].values()
    ends = f", from {brier[0]:.4f} to {brier[-1]:.4f}" if brier else ""
    return f"Learning curves along {len(brier)} epochs: what training minimised, and the held-out Brier score{ends}."
