"""Pictures of a grid: the heat map of its students, what they became against what was foretold, its teachers'
reliability.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preceptor.assess.intervals import Estimate
from preceptor.study.grid.statistics import Cell, Foretold, Statistics, Teacher
from preceptor.study.pictures import (
    ACCENT,
    INK,
    MUTED,
    OVER,
    PAPER,
    UNDER,
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

__all__ = ["foretold_panel", "heat_map", "points", "teacher_reliability", "to_png"]


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


def foretold_panel(axes: "Axes", statistics: Statistics, foretold: Foretold) -> None:
    """What the students became against what held-out labels foretold; up and right are better.

    Args:
        foretold: ``statistics.accuracy`` or ``statistics.distance``.
    """
    if foretold is statistics.distance:
        _dots(axes, statistics, foretold, 1.0, statistics.baseline_brier.value)
        axes.invert_yaxis()
        axes.set(
            xlabel="held-out Brier score of what the loss makes of the teacher", ylabel="test Brier of the student"
        )
        _stretch(axes, foretold)
        entitle(axes, "How near to the truth?", "better: right and up")
    else:
        _dots(axes, statistics, foretold, 100.0, 100 * statistics.baseline.value)
        axes.set(xlabel="held-out Brier score of the teacher at its best temperature")
        axes.set(ylabel="test accuracy of the student, %")
        entitle(axes, "How accurate?", "better: right and up")


def _dots(axes: "Axes", statistics: Statistics, foretold: Foretold, scale: float, baseline: float) -> None:
    """A dot for each teacher and loss, a colour and a shape for each loss; a line for the student of labels alone."""
    styles = itertools.cycle(zip((ACCENT, OVER, UNDER, INK, MUTED), "osD^v", strict=True))
    for loss, x, y, (color, marker) in zip(
        statistics.losses, foretold.predicted, foretold.realised, styles, strict=False
    ):
        label = f"{loss}  {_rho(foretold.correlation[loss])}"
        axes.plot(x, scale * y, marker, color=color, markeredgecolor=PAPER, markersize=7, alpha=0.85, label=label)
    if np.isfinite(baseline):
        axes.axhline(baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate("labels alone", (0.01, baseline), (0, -4), va="top", color=MUTED, fontsize=9.5, **place)
    axes.invert_xaxis()
    axes.tick_params(length=3)
    axes.legend(loc="lower right", frameon=False, fontsize=9.5, handletextpad=0.2, labelspacing=0.3)


def _stretch(axes: "Axes", foretold: Foretold) -> None:
    """Logarithmic axes where one loss softens so much that all others would be crowded in a corner."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    low, high = _limits(foretold.predicted)
    if not 0 < 3 * low < high or np.nanmin(foretold.realised) <= 0:
        return
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())


def teacher_reliability(axes: "Axes", statistics: Statistics, teacher: Teacher) -> None:
    """The reliability diagram of a study's teacher, on the axes that all of them share."""
    scale = reliability_scale([other.bins for other in statistics.teachers])
    reliability_panel(axes, teacher.name, teacher.bins, teacher.scores["calibration_error"].value, scale)


def to_png(statistics: Statistics, path: Path) -> None:
    """All pictures in one PNG, 1600 pixels wide, written atomically; reliability of the first six teachers alone."""
    first = statistics.teachers[:6]
    upper, lower = max(560, 38 * len(statistics.teachers) + 120), 260
    with png(1152, upper + lower, path) as figure:
        top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[upper, lower]), dtype=object)
        left, right = top.subfigures(1, 2, width_ratios=[1, 1.15], wspace=0.02)
        _headline(left, "Student accuracy, and its difference to labels alone in points")
        heat_map(left, statistics)
        _headline(right, "Foretold from held-out labels, before any student exists")
        foretold = [each for each in (statistics.accuracy, statistics.distance) if each is not None]
        _fill(right, foretold, 1, lambda axes, each: foretold_panel(axes, statistics, each))
        which = "the teachers" if len(first) == len(statistics.teachers) else "the first six teachers"
        _headline(bottom, f"Reliability of {which} on held-out labels")
        _fill(bottom, first, len(first), lambda axes, teacher: teacher_reliability(axes, statistics, teacher))


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


def _rho(rho: Estimate) -> str:
    if np.isnan(rho.value):
        return "ρ = –"
    interval = f" [{rho.low:.2f}, {rho.high:.2f}]" if np.isfinite(rho.low) else ""
    return typographic(f"ρ = {rho.value:.2f}{interval}")
