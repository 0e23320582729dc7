"""What a run says to a person beside its progress: one line on standard error, kept in its result under ``notes``."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)
_said: set[str] = set()


def note(text: str) -> None:
    """Say one line about this run that its reader should know, once, and keep it in the run's result.

    >>> with notes_kept() as notes:
    ...     note("the data set has two samples")
    >>> notes
    ['the data set has two samples']
    """
    notes = _notes.get()
    if notes is not None and text in notes:
        return
    say(f"note: {text}")
    if notes is not None:
        notes.append(text)


def note_once(text: str) -> None:
    """`note`, once a process where nobody keeps the notes: for what a loop of one's own calls at every step."""
    if _notes.get() is None:
        if text in _said:
            return
        _said.add(text)
    note(text)


def say(text: str) -> None:
    """One line on standard error, by one process of a run; a stream that nobody reads any more stops nothing."""
    if os.environ.get("RANK", "0") == "0" and sys.stderr is not None:
        print(text, file=Patient(sys.stderr), flush=True)


class Patient:
    """A text stream that nobody may be able to write to any more (a closed terminal, a full disk): then silent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: Exception | None = None
        """Why what was written last is lost."""

    def write(self, text: str) -> int:
        """Write, or lose, a text."""
        self._tried(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, or lose it."""
        self._tried(self._stream.flush)

    def _tried(self, action: Callable[..., object], *arguments: str) -> None:
        if self.error is None:
            try:
                action(*arguments)
            except (OSError, ValueError) as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)


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
