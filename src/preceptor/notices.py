"""What a run says to a person beside its progress: one line on standard error, kept in its result under ``notes``."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def note(text: str) -> None:
    """Say one line about this run that its reader should know, and keep it in the run's result.

    >>> with notes_kept() as notes:
    ...     note("the data set has two samples")
    >>> notes
    ['the data set has two samples']
    """
    say(f"note: {text}")
    notes = _notes.get()
    if notes is not None and text not in notes:
        notes.append(text)


def say(text: str) -> None:
    """One line on standard error, by one process of a run; a stream that nobody reads any more stops nothing."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def notes_kept() -> Iterator[list[str]]:
    """Keep the notes of one run, from the reading of its recipe to its result, in the list that this gives."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def kept_notes() -> list[str]:
    """The notes of the run that is being made so far."""
    return list(_notes.get() or [])
