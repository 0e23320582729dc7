"""Progress bars on long work; silent where nobody watches."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from preceptor.notices import Patient

if TYPE_CHECKING:
    from rich.progress import Progress

OnStep = Callable[[int, int, Mapping[str, Any]], None]

_shown_elsewhere: OnStep | None = None


def show_elsewhere(on_step: OnStep) -> None:
    """Let all bars of this process be drawn by another one: only one can draw on a terminal."""
    global _shown_elsewhere
    _shown_elsewhere = on_step


@contextlib.contextmanager
def progress_bar(description: str, *, enabled: bool) -> Iterator[OnStep]:
    """A bar for one training run: call what it gives with (steps done, steps in all, latest held-out
    scores).
    """
    if not enabled:
        yield lambda *_: None
    elif _shown_elsewhere:
        yield _shown_elsewhere
    else:
        with bars() as bar:
            task = bar.add_task(description, total=None, scores="")
            yield lambda done, total, scores: bar.update(task, completed=done, total=total, scores=_short(scores))


def bars() -> "Progress":
    """An empty set of bars on standard error; a context manager. Tasks take a ``scores`` text."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[scores]}", markup=False),
        # Whatever becomes of the terminal, the work goes on.
        console=Console(file=cast(IO[str], Patient(sys.stderr))) if sys.stderr else Console(stderr=True),
    )


def _short(scores: Mapping[str, Any]) -> str:
    """Held-out accuracy and Brier score, or a language model's bits per byte; the mean over models for a stack."""
    parts = []
    for name in ("bits_per_byte",) if "bits_per_byte" in scores else ("accuracy", "brier"):
        value = scores.get(name)
        if value is not None:
            mean = sum(value) / len(value) if isinstance(value, list) else value
            parts.append(f"{name.replace('_', ' ')} {mean:.3f}")
    return "  ".join(parts)
