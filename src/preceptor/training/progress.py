"""Progress bars on long work; silent where nobody watches."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

OnStep = Callable[[int, int, Mapping[str, Any]], None]


@contextlib.contextmanager
def progress_bar(description: str, *, enabled: bool) -> Iterator[OnStep]:
    """A bar for one training run: call what it gives with (steps done, steps in all, latest held-out
    scores).
    """
    if not enabled:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[scores]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None, scores="")
        yield lambda done, total, scores: bar.update(task, completed=done, total=total, scores=_short(scores))


def _short(scores: Mapping[str, Any]) -> str:
    """Held-out accuracy and Brier score; the mean over models for a stack."""
    parts = []
    for name in ("accuracy", "brier"):
        value = scores.get(name)
        if value is not None:
            mean = sum(value) / len(value) if isinstance(value, list) else value
            parts.append(f"{name} {mean:.3f}")
    return "  ".join(parts)
