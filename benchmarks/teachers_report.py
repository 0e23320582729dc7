"""What the runs of benchmarks/teachers.py say: students of each kind of teacher, and what foretells them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.runs import read_result

TUNING = 100  # the seed at which settings are chosen
# What the settings of each kind are stands in `MEANING`.
GRIDS: dict[str, tuple[float, ...]] = {
    "cross_entropy": (0.5, 1, 2),
    "label_smoothing": (0.05, 0.1, 0.2),
    "dropout": (0.1, 0.2, 0.4),
    "temperature": (0.5, 1.5, 3),
    "sftn": (1, 3, 6),
    "swag": (0.05, 0.15, 0.5),
    "sgld": (0.0001, 0.01, 1),
    "ensemble": (0.5, 1, 2),
    "snapshots": (2, 3, 6),
    "born_again": (1, 2, 4),
    "born_again_ensemble": (1, 2, 4),
    "aid": (0.25, 0.5, 0.75),
    "mutual": (0.5, 1, 2),
    "mutual_both": (0.5, 1, 2),
    "assistant": (1, 2, 4),
    "alone": (0.5, 1, 2),
    "mutual_small": (0.5, 1, 2),
}
# Kinds that share runs are one part of the work.
FAMILIES = {
    "cross_entropy": ("cross_entropy",),
    "stopped": ("stopped",),
    "label_smoothing": ("label_smoothing",),
    "dropout": ("dropout",),
    "temperature": ("temperature",),
    "sftn": ("sftn",),
    "swag": ("swag",),
    "sgld": ("sgld",),
    "ensemble": ("ensemble",),
    "snapshots": ("snapshots",),
    "born_again": ("born_again", "born_again_ensemble"),
    "aid": ("aid",),
    "mutual": ("mutual", "mutual_both", "mutual_small"),
    "assistant": ("assistant",),
    "alone": ("alone",),
    "longer": ("longer",),
}
GRID_OF = {"stopped": "cross_entropy", "longer": "alone"}  # what has no grid of its own


def complete(folder: Path) -> bool:
    """Whether a run has ended."""
    return (folder / "result.json").is_file()


def place(out: Path, seed: int, kind: str, setting: float) -> Path:
    """The run of the student of a kind of teacher, or of the labels alone."""
    folder = out / f"seed-{seed}"
    if kind == "mutual_small":
        return folder / "teachers" / f"mutual-{setting:g}" / "small"
    return folder / ("alone" if kind in ("alone", "longer") else "students") / f"{kind}-{setting:g}"


def best_setting(out: Path, kind: str, grids: Mapping[str, Sequence[float]]) -> float | None:
    """The setting whose student of `TUNING` is the most accurate on held-out images, of equal ones that of lower NLL.

    None if some of the grid's students are not complete.
    """
    grid = GRID_OF.get(kind, kind)
    runs = {setting: place(out, TUNING, grid, setting) for setting in grids[grid]}
    if not all(map(complete, runs.values())):
        return None
    scores = {setting: read_result(run)["heldout"]["last"] for setting, run in runs.items()}
    return max(scores, key=lambda setting: (scores[setting]["accuracy"], -scores[setting]["nll"]))


def collect(out: Path, grids: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, Any]:
    return {}


def markdown(result: Mapping[str, Any]) -> str:
    return ""
