"""Ctrl-C and SIGTERM, heard between two steps."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved."""


class Interruption:
    """Whether this process was asked to stop.

    Args:
        alone: the only process of the run. One of several does not end by itself: its launcher passes on a Ctrl-C that
            it has had already.
    """

    alone: bool
    asked: bool

    def __init__(self, *, alone: bool) -> None:
        self.alone, self.asked = alone, False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """The first signal is noted, to be seen at the next step; the second ends at once."""

        def handle(number: int, frame: Any) -> None:
            if self.asked and self.alone:
                raise KeyboardInterrupt
            self.asked = True

        try:
            before = [signal.signal(number, handle) for number in _NUMBERS]
        except ValueError:  # not in the main thread: signals are somebody else's business
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(_NUMBERS, before, strict=True):
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
