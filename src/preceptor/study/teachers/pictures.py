"""Pictures of an assessment: scores with their intervals, scores along the epochs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from preceptor.assess.intervals import Estimate
from preceptor.study.pictures import ACCENT, INK, MUTED, OVER, PAPER, RULE, UNDER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["epochs_panel", "score_panel"]


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
