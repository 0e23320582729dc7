"""What the pictures of all pages share: colours, figures as inline SVG and as PNG, reliability diagrams.

Each picture is drawn onto matplotlib axes by one function; a page shows it as inline SVG that follows its colours, the
README as one PNG. Nothing touches pyplot and its global state.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preceptor.runs import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["entitle", "png", "reliability_panel", "reliability_scale", "to_svg", "typographic"]

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
    entitle(axes, name, f"calibration error {100 * error:.1f} %" if np.isfinite(error) else "")


def reliability_scale(bins: Sequence[Mapping[str, np.ndarray]]) -> tuple[float, float]:
    """Where the axes of all diagrams begin, the ten per cent below the lowest bin, and the fullest bin."""
    lowest = [values.min(initial=1.0) for each in bins for values in _filled(each)[1:]]
    largest = max(float(np.nanmax(each["count"], initial=1)) for each in bins)
    return float(np.floor(10 * min([*lowest, 0.8])) / 10), largest


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


@contextmanager
def png(width: float, height: float, path: Path) -> Iterator["Figure"]:
    """A figure to draw on, width x height points, that becomes a PNG when the block ends, written atomically.

    Raises:
        InputError: there is a file that is no picture of ours, or a folder.
    """
    files.refuse_foreign(path, "picture", b"Preceptor", b"Matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _figure(width, height, constrained=True) as figure, files.atomic_path(path) as temporary:
        yield figure
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": "Preceptor"})


@contextmanager
def _figure(width: float, height: float, *, constrained: bool) -> Iterator["Figure"]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=6 * _POINT, h_pad=6 * _POINT) if constrained else None
        yield Figure(figsize=(width * _POINT, height * _POINT), facecolor=PAPER, layout=layout)


def entitle(axes: "Axes", title: str, subtitle: str) -> None:
    """A title, and below it a line in small print."""
    axes.set_title(title, pad=20)
    style = {"color": MUTED, "fontsize": 10}
    axes.annotate(subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", **style)


def _filled(bins: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Count, confidence and accuracy of the bins that hold a sample."""
    columns = [bins[key] for key in ("count", "confidence", "accuracy")]
    filled = np.isfinite(np.sum(columns, 0))
    return [values[filled] for values in columns]
