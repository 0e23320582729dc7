"""Pictures of a grid: the heat map of its students, predicted against realised rank, its teachers' reliability."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preceptor.study.grid.statistics import Cell, Statistics, Teacher
from preceptor.study.pictures import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    entitle,
    png,
    reliability_panel,
    reliability_scale,
    typographic,
)
from preceptor.study.statistics import differs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["heat_map", "points", "rank_panel", "teacher_reliability", "to_png"]


def points(cell: Cell) -> str:
    """The difference to the baseline, as a cell of the heat map shows it."""
    return typographic(f"{cell.difference.value:+.2f}") if np.isfinite(cell.difference.value) else "–"


def heat_map(figure: "Figure | SubFigure", statistics: Statistics) -> None:
    """Teacher x loss, coloured by mean student accuracy; the baseline is marked on the colour bar."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    teachers, losses = statistics.teachers, statistics.losses
    axes, bar = figure.subplots(2, 1, height_ratios=[len(teachers), 0.32])
    accuracy = 100 * np.array([[statistics.cells[t.name, loss].accuracy.value for loss in losses] for t in teachers])
    baseline = 100 * statistics.baseline.value
    low, high = _limits(np.append(accuracy, baseline))
    colors = colormaps["viridis"]
    mesh = axes.pcolormesh(accuracy, cmap=colors, vmin=low, vmax=high, edgecolors=PAPER, linewidth=2)
    for i, teacher in enumerate(teachers):
        for j, loss in enumerate(losses):
            _annotate(axes, i, j, statistics.cells[teacher.name, loss], colors((accuracy[i, j] - low) / (high - low)))
    axes.set_xticks(np.arange(len(losses)) + 0.5, losses)
    axes.set_yticks(np.arange(len(teachers)) + 0.5, [teacher.name for teacher in teachers])
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0, labelcolor=INK, labelsize=11)
    axes.spines[:].set_visible(False)
    ticks = MaxNLocator(min(len(losses) + 1, 6))
    figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=ticks, label="test accuracy of the student, %")
    # Hair lines would show between the bar's steps.
    bar.collections[-1].set_edgecolor("face")
    bar.spines[:].set_visible(False)
    if np.isfinite(baseline):
        _mark_baseline(bar, baseline, low, high)


def rank_panel(axes: "Axes", statistics: Statistics, loss: str) -> None:
    """Predicted against realised rank of the teachers under one loss.

    Every label has a line of its own: equal realised ranks leave the following ranks free, and the labels of those
    that share a place move up into them, tied to their point by a hair line.
    """
    cells = [statistics.cells[teacher.name, loss] for teacher in statistics.teachers]
    known = [cell for cell in cells if cell.predicted_rank and cell.realised_rank]
    count = max(len(cells), 2)
    axes.plot([0.5, count + 0.5], [0.5, count + 0.5], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ordered = sorted(known, key=lambda cell: (cell.realised_rank or 0, cell.predicted_rank or 0))
    for row, cell in enumerate(ordered, start=1):
        x, y = cell.predicted_rank or 0, cell.realised_rank or 0
        side = 1 if x <= (count + 1) / 2 else -1
        if row != y:
            axes.plot([x, x + 0.2 * side], [y, row], color=MUTED, linewidth=0.8, zorder=2)
        label = {"ha": "left" if side > 0 else "right", "va": "center", "fontsize": 9.5, "zorder": 3}
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.85}
        axes.text(x + 0.22 * side, row, cell.teacher, bbox=paper, **label)
        axes.plot([x], [y], "o", color=ACCENT, markersize=8, markeredgecolor=PAPER, zorder=4)
    ticks = range(1, count + 1)
    axes.set(xlim=(0.4, count + 0.6), ylim=(0.4, count + 0.6), xticks=ticks, yticks=ticks)
    axes.set(xlabel="predicted rank (1 is best)", ylabel="realised rank (1 is best)")
    axes.tick_params(length=0)
    entitle(axes, loss, _rho(statistics, loss))


def teacher_reliability(axes: "Axes", statistics: Statistics, teacher: Teacher) -> None:
    """The reliability diagram of a study's teacher, on the axes that all of them share."""
    scale = reliability_scale([other.bins for other in statistics.teachers])
    reliability_panel(axes, teacher.name, teacher.bins, teacher.scores["calibration_error"].value, scale)


def to_png(statistics: Statistics, path: Path) -> None:
    """All three pictures in one PNG, 1600 pixels wide, written atomically."""
    teachers, losses = len(statistics.teachers), len(statistics.losses)
    columns = min(teachers, 6)
    upper = max(520, -(-losses // 2) * (25 * teachers + 100))
    lower = 260 * -(-teachers // columns)
    with png(1152, upper + lower, path) as figure:
        top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[upper, lower]), dtype=object)
        left, right = top.subfigures(1, 2, width_ratios=[1, 1.15], wspace=0.02)
        _headline(left, "Student accuracy, and its difference to labels alone in points")
        heat_map(left, statistics)
        _headline(right, "Predicted against realised rank of the teachers")
        _fill(right, statistics.losses, 2, lambda axes, loss: rank_panel(axes, statistics, loss))
        _headline(bottom, "Reliability of the teachers on held-out labels")
        _fill(bottom, statistics.teachers, columns, lambda axes, item: teacher_reliability(axes, statistics, item))


def _headline(figure: "SubFigure", text: str) -> None:
    figure.suptitle(text, x=10 / figure.bbox.width, ha="left", fontsize=13, fontweight="bold")


def _fill(figure: "SubFigure", items: Any, columns: int, draw: Callable[["Axes", Any], None]) -> None:
    """One panel an item, row by row; places left over stay empty."""
    columns = min(columns, len(items))
    panels = figure.subplots(-(-len(items) // columns), columns, squeeze=False).ravel()
    for axes, item in zip(panels, items, strict=False):
        draw(axes, item)
    for axes in panels[len(items) :]:
        axes.set_visible(False)


def _annotate(axes: "Axes", row: int, column: int, cell: Cell, color: tuple[float, float, float, float]) -> None:
    """The difference in points, bold where its interval excludes 0, over half the width of that interval."""
    if not np.isfinite(cell.accuracy.value):
        axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=MUTED)
        return
    # Relative luminance, after which black and white text are equally legible at about 0.18.
    linear = np.array(color[:3]) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    ink = "#111111" if linear > 0.2 else "#fefefe"
    weight = "bold" if differs(cell.difference) else "normal"
    margin = (cell.difference.high - cell.difference.low) / 2
    y = row + (0.38 if np.isfinite(margin) else 0.5)
    axes.text(column + 0.5, y, points(cell), ha="center", va="center", color=ink, fontweight=weight)
    if np.isfinite(margin):
        axes.text(column + 0.5, row + 0.7, f"± {margin:.2f}", ha="center", va="center", color=ink, fontsize=9)


def _mark_baseline(bar: "Axes", baseline: float, low: float, high: float) -> None:
    place = (baseline - low) / (high - low)
    align = "left" if place < 0.3 else "right" if place > 0.7 else "center"
    edge = bar.get_xaxis_transform()
    bar.plot([baseline], [1.0], marker="v", markersize=8, color=INK, transform=edge, clip_on=False, zorder=5)
    text = f"labels alone {baseline:.1f}"
    bar.annotate(text, (baseline, 1), (0, 7), xycoords=edge, textcoords="offset points", ha=align, fontsize=10)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest finite value; a little room where they are one."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)


def _rho(statistics: Statistics, loss: str) -> str:
    rho = statistics.correlation[loss]
    if np.isnan(rho.value):
        return "ρ = –"
    interval = f"  [{rho.low:.2f}, {rho.high:.2f}]" if np.isfinite(rho.low) else ""
    return typographic(f"ρ = {rho.value:.2f}{interval}")
