"""Pictures of a study (the heat map of its students, predicted against realised rank), of an assessment (scores with
their intervals, scores along the epochs), and of both (reliability diagrams).

Each is drawn onto matplotlib axes by one function; the report shows them as inline SVG that follows the page's colours,
the README as one PNG. Nothing touches pyplot and its global state.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preceptor.assess.intervals import Estimate
from preceptor.runs import files
from preceptor.study.statistics import Cell, Statistics, Teacher, differs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "epochs_panel",
    "heat_map",
    "png",
    "rank_panel",
    "reliability_panel",
    "reliability_scale",
    "score_panel",
    "teacher_reliability",
    "to_png",
    "to_svg",
]

# Colours in the PNG; the report puts the page's own in their place, so that they follow light and dark mode.
INK, MUTED, RULE, PAPER = "#1f2330", "#667085", "#d5d9e0", "#ffffff"
ACCENT, OVER, UNDER = "#3b5bdb", "#c2410c", "#0f7a8a"
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", ACCENT: "accent", OVER: "over", UNDER: "under"}

# One unit of a drawing is a point, 1/72 inch, and about a pixel of the report.
_POINT = 1 / 72
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a name is a name, even with a $ in it
    "svg.fonttype": "none",  # real text: selectable, in the page's font
}


def typographic(text: str) -> str:
    """A true minus sign for the hyphen of a number."""
    return text.replace("-", "−")


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
    _entitle(axes, loss, _rho(statistics, loss))


def teacher_reliability(axes: "Axes", statistics: Statistics, teacher: Teacher) -> None:
    """The reliability diagram of a study's teacher, on the axes that all of them share."""
    scale = reliability_scale([other.bins for other in statistics.teachers])
    reliability_panel(axes, teacher.name, teacher.bins, teacher.scores["calibration_error"].value, scale)


def reliability_panel(
    axes: "Axes", name: str, bins: Mapping[str, np.ndarray], error: float, scale: tuple[float, float]
) -> None:
    """How often a teacher is right, bin by bin of how sure it is; bars show the gap to the diagonal.

    Args:
        name: of the teacher.
        bins: ``count``, ``confidence`` and ``accuracy`` of each bin; NaN where it is empty.
        error: its calibration error.
        scale: common to all diagrams of a page (`reliability_scale`).
    """
    low, largest = scale
    count, confidence, accuracy = _filled(bins)
    axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    colors = np.where(accuracy < confidence, OVER, UNDER).tolist()
    axes.vlines(confidence, confidence, accuracy, colors=colors, linewidth=3, alpha=0.45, zorder=2)
    axes.scatter(confidence, accuracy, s=6 + 34 * count / largest, c=colors, edgecolors=PAPER, linewidths=0.6, zorder=3)
    margin = 0.03 * (1 - low)
    ticks = np.arange(1, low - 0.01, -0.2 if low < 0.6 else -0.1)
    labels = [f"{100 * tick:.0f}" for tick in ticks]
    axes.set(xlim=(low - margin, 1 + margin), ylim=(low - margin, 1 + margin))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=3)
    axes.set(xlabel="confidence, %", ylabel="accuracy, %")
    _entitle(axes, name, f"calibration error {100 * error:.1f} %" if np.isfinite(error) else "")


def reliability_scale(bins: Sequence[Mapping[str, np.ndarray]]) -> tuple[float, float]:
    """Where the axes of all diagrams begin, the ten per cent below the lowest bin, and the fullest bin."""
    lowest = [values.min(initial=1.0) for each in bins for values in _filled(each)[1:]]
    largest = max(float(np.nanmax(each["count"], initial=1)) for each in bins)
    return float(np.floor(10 * min([*lowest, 0.8])) / 10), largest


def score_panel(
    figure: "Figure | SubFigure",
    rows: Sequence[tuple[str, Estimate, Estimate | None]],
    groups: Sequence[int],
    labels: tuple[str, str],
) -> None:
    """A dot plot of teachers, best first: the score with its interval, and how far each is behind the best.

    Teachers of one rank share a band. The right-hand intervals are of paired differences, which are narrower than those
    on the left: a teacher whose bar reaches the line at 0 cannot be told from the best.

    Args:
        rows: name, score, difference to the best (None for the best itself) of each teacher.
        groups: the rank of each.
        labels: of the two axes.
    """
    from matplotlib.ticker import MaxNLocator

    alone = all(behind is None for _, _, behind in rows)
    panels = figure.subplots(1, 1 if alone else 2, sharey=True, squeeze=False)[0]
    places = np.arange(len(rows))
    _dots(panels[0], places, [score for _, score, _ in rows], [ACCENT] * len(rows))
    if not alone:
        behind = [difference or Estimate(0.0, 0.0, 0.0) for _, _, difference in rows]
        _dots(panels[1], places, behind, [ACCENT if each.excludes_zero else MUTED for each in behind])
        panels[1].axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for axes, label in zip(panels, labels, strict=False):
        for position, rank in enumerate(groups):
            if sorted(set(groups)).index(rank) % 2 == 0:
                axes.axhspan(position - 0.5, position + 0.5, color=RULE, alpha=0.3, linewidth=0, zorder=0)
        axes.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(places, [name for name, _, _ in rows])
    panels[0].tick_params(axis="y", labelcolor=INK)


def _dots(axes: "Axes", places: np.ndarray, estimates: Sequence[Estimate], colors: Sequence[str]) -> None:
    values, low, high = np.array([[e.value, e.low, e.high] for e in estimates]).T
    axes.hlines(places, low, high, colors=colors, linewidth=2.5, alpha=0.55, zorder=2)
    axes.scatter(values, places, s=44, c=colors, edgecolors=PAPER, linewidths=0.8, zorder=3)


def epochs_panel(axes: "Axes", series: Mapping[str, Sequence[tuple[int, Estimate]]], label: str) -> None:
    """A score along the epochs of runs, with its interval, and the best epoch of each marked.

    Args:
        series: for each run, epochs with their scores, in order.
        label: of the score, of which less is better.
    """
    from matplotlib.ticker import MaxNLocator

    for position, (name, scores) in enumerate(series.items()):
        color = (ACCENT, OVER, UNDER, INK, MUTED)[position % 5]
        epochs = np.array([epoch for epoch, _ in scores])
        values, low, high = np.array([[e.value, e.low, e.high] for _, e in scores]).T
        best = int(values.argmin())
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(epochs, values, color=color, linewidth=1.8, label=f"{name} (best: epoch {epochs[best]})")
        axes.plot(epochs[best], values[best], "o", color=color, markersize=8, markeredgecolor=PAPER)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epochs", ylabel=label)
    axes.legend(frameon=False, fontsize=10)


def to_svg(draw: Callable[[Any], None], width: float, height: float, alt: str, *, axes: bool = True) -> str:
    """A drawing as inline SVG: no identifiers to collide, no links, colours and font of the page around it.

    Args:
        draw: draws onto the axes it is handed, or onto the figure if `axes` is False.
        width: in units of the drawing; text is 10 to 11 of them high.
        height: likewise.
        alt: what a reader who cannot see it is told.
        axes: lay out one pair of axes with room for its labels.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with _figure(width, height, constrained=not axes) as figure:
        if axes:
            left, right, bottom, top = 46 / width, 1 - 8 / width, 42 / height, 1 - 42 / height
            draw(figure.add_axes((left, bottom, right - left, top - bottom)))
        else:
            draw(figure)
        buffer = StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    content = re.search(r"<svg[^>]*>(.*)</svg>", buffer.getvalue(), re.DOTALL)
    assert content is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", content[1], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    # Legible on a phone, and no giant letters on a wide screen.
    style = f"min-width: {0.7 * width:.0f}px; max-width: {1.35 * width:.0f}px"
    label = html.escape(alt)
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" style="{style}">{body}</svg>'


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


@contextmanager
def png(width: float, height: float, path: Path) -> Iterator["Figure"]:
    """A figure to draw on, width x height points, that becomes a PNG when the block ends, written atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _figure(width, height, constrained=True) as figure, files.atomic_path(path) as temporary:
        yield figure
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=100)


@contextmanager
def _figure(width: float, height: float, *, constrained: bool) -> Iterator["Figure"]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=6 * _POINT, h_pad=6 * _POINT) if constrained else None
        yield Figure(figsize=(width * _POINT, height * _POINT), facecolor=PAPER, layout=layout)


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


def _entitle(axes: "Axes", title: str, subtitle: str) -> None:
    axes.set_title(title, pad=20)
    style = {"color": MUTED, "fontsize": 10}
    axes.annotate(subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", **style)


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


def _filled(bins: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Count, confidence and accuracy of the bins that hold a sample."""
    columns = [bins[key] for key in ("count", "confidence", "accuracy")]
    filled = np.isfinite(np.sum(columns, 0))
    return [values[filled] for values in columns]
