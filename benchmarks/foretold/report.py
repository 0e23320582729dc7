"""What a prediction study found, for people: Markdown tables and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foretold.summary import LossSummary, summarize
from preceptor.assess.intervals import Estimate
from preceptor.study import pictures
from preceptor.study.text import made_by, markdown_table, percent, plus_minus

__all__ = ["markdown", "write_picture"]

_ROWS = (
    ("recalibrated Brier → accuracy", lambda s: _plain(s.correlation)),
    ("halves of the seeds → each other; noise ceiling", lambda s: f"{s.halves:.2f}; {s.ceiling:.2f}"),
    ("within the better half", lambda s: _plain(s.better_half)),
    ("Brier → accuracy", lambda s: _plain(s.brier)),
    ("Brier → distance of the student", lambda s: _plain(s.with_distance)),
    ("the same of the distance", lambda s: f"{s.distance_halves:.2f}; {s.distance_ceiling:.2f}"),
    ("true distance, held-out → accuracy", lambda s: _plain(s.distance_heldout)),
    ("true distance, transfer set → accuracy", lambda s: _plain(s.distance_transfer)),
    ("recalibrated Brier → accuracy of early-stopped students", lambda s: _plain(s.early_stopped)),
    ("gap between truth and labels for those, points", lambda s: plus_minus(s.early_stopped_gap, 1, sign=True)),
    ("guess: teacher accuracy", lambda s: _plain(s.guesses["accuracy"])),
    ("guess: teacher NLL", lambda s: _plain(s.guesses["nll"])),
    ("guess: teacher ECE", lambda s: _plain(s.guesses["calibration_error"])),
    ("regret of the prediction's first, points", lambda s: _plain(s.regret)),
    ("student of the labels, accuracy %", lambda s: plus_minus(percent(s.hard), 1)),
    ("student of the truth, accuracy %", lambda s: plus_minus(percent(s.oracle), 1)),
    ("student of `auto`, accuracy %", lambda s: plus_minus(percent(s.auto), 1)),
    ("student of the truth as `auto` sets the loss, accuracy %", lambda s: plus_minus(percent(s.oracle_of_auto), 1)),
    ("oracle gap closed by `auto`", lambda s: _plain(s.auto_closure)),
    ("oracle gap closed by the best candidate", lambda s: _plain(max(s.closure.values(), key=lambda e: e.value))),
)


def markdown(result: Mapping[str, Any]) -> str:
    """Two tables in GitHub's Markdown: what was predicted how well, and every candidate; and how they were made."""
    found = summarize(result)
    losses = list(found)
    grid = markdown_table(["", *losses], [[label, *(cell(found[loss]) for loss in losses)] for label, cell in _ROWS])
    return f"{grid}\n\n{_candidates(result, found)}\n\n{made_by(result)} {_caption(result)}\n"


def _candidates(result: Mapping[str, Any], found: Mapping[str, LossSummary]) -> str:
    first = next(iter(found))
    headers = [
        "candidate",
        f"Brier ({first})",
        f"at best T ({first})",
        "acc %",
        *(f"{loss}: acc %, closed" for loss in found),
    ]
    rows: list[list[str]] = []
    worth = {n: np.mean(c["losses"][first]["brier_recalibrated"]) for n, c in result["candidates"].items()}
    for name in sorted(worth, key=lambda n: worth[n]):
        candidate = result["candidates"][name]
        cells = [
            f"{100 * np.mean(result['losses'][loss]['students'][name]['accuracy']):.1f}, "
            f"{_signed(found[loss].closure[name].value)}"
            for loss in found
        ]
        brier = np.mean(candidate["losses"][first]["brier"])
        rows.append([name, f"{brier:.3f}", f"{worth[name]:.3f}", f"{100 * np.mean(candidate['accuracy']):.1f}", *cells])
    return markdown_table(headers, rows)


def write_picture(result: Mapping[str, Any], path: Path) -> Path:
    """Predicted against realised, a panel a loss, as one PNG."""
    found = summarize(result)
    with pictures.png(4.2 * 72 * len(found), 4.2 * 72, path) as figure:
        for axes, (loss, summary) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
            _panel(axes, result, loss, summary)
    return path


def _panel(axes: Any, result: Mapping[str, Any], loss: str, summary: LossSummary) -> None:
    names = list(result["candidates"])
    x = [np.mean(result["candidates"][n]["losses"][loss]["brier_recalibrated"]) for n in names]
    y = [100 * np.mean(result["losses"][loss]["students"][n]["accuracy"]) for n in names]
    axes.plot(x, y, "o", color=pictures.ACCENT, markeredgecolor=pictures.PAPER, markersize=8)
    levels = {"truth": summary.oracle, "auto": summary.auto, "labels": summary.hard}
    for (name, level), color in zip(levels.items(), (pictures.UNDER, pictures.ACCENT, pictures.MUTED), strict=True):
        if np.isnan(level.value):  # the truth is not known
            continue
        # The two upper lines are often near to each other: one is named above, the other below. Few points lie there.
        below = name != "labels" and level.value < max(summary.oracle.value, summary.auto.value)
        axes.axhline(100 * level.value, color=color, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            (0.01, 100 * level.value),
            xycoords=("axes fraction", "data"),
            va="top" if below else "bottom",
            color=color,
            fontsize=9.5,
        )
    axes.invert_xaxis()
    axes.set(xlabel="held-out Brier score at best T (better →)", ylabel="test accuracy of the student, %")
    axes.set_title(f"{loss}: ρ = {pictures.typographic(f'{summary.correlation.value:.2f}')}")


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.2f}"


def _plain(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _caption(result: Mapping[str, Any]) -> str:
    return (
        "Arrows: Spearman correlation over the candidates, 1 is perfect; [ ]: 95 % bootstrap over seeds; ±: half the "
        "95 % Student-t interval; noise ceiling: what a prediction without error could reach over all seeds (Spearman "
        f"and Brown, from the halves); best candidate: picked out of {len(result['candidates'])} on these same seeds, "
        "so value and interval flatter it; –: no gap beyond doubt to be closed, or the truth of what students see is "
        "not known."
    )
