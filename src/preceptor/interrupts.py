"""Signals that ask to stop, Ctrl-C, TERM and HUP: a training hears them between two steps, all else at once."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# A launcher may send one signal twice, to the process and to its group; a person takes longer to lose patience.
_SAME = 1.0  # second


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop.

    Args:
        number: of the signal.
        saved: whether all that was trained is on disk; None where nothing was being trained.
    """

    number: int
    saved: bool | None

    def __init__(self, number: int = signal.SIGINT, *, saved: bool | None = None) -> None:
        super().__init__(f"signal {int(number)}")
        self.number, self.saved = int(number), saved


@contextlib.contextmanager
def handled(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Let a function handle the signals that ask to stop; one that is ignored, as HUP under nohup, stays so."""
    before = {}
    try:
        for number in NUMBERS:
            # A shell has its background jobs ignore Ctrl-C; one that is sent to them all the same is meant.
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Raise `Interrupted` at the first signal; a second one, a second later or more, ends the process where it is.

    A process that was started by another one to work for it hears of the same wish from several sides, and only once.
    """
    heard = Interruption(alone=not _is_worker())

    def handle(number: int, frame: Any) -> None:
        if heard.is_first(number):
            raise Interrupted(number)
        if heard.is_impatient():
            os._exit(128 + number)

    with handled(handle):
        yield


def _is_worker() -> bool:
    """Whether another process started this one to work for it; else what would tell need not even be imported."""
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


class Interruption:
    """Whether this process was asked to stop.

    Args:
        alone: nobody else works with this process on the same thing. One of several does not end by itself: its
            launcher passes on a signal that it has had already.
    """

    asked: int | None = None
    """The signal."""
    alone: bool

    def __init__(self, *, alone: bool) -> None:
        self.alone, self._when = alone, 0.0

    def is_first(self, number: int) -> bool:
        """Note a signal; whether it is the first."""
        if self.asked is not None:
            return False
        self.asked, self._when = number, time.monotonic()
        return True

    def is_impatient(self) -> bool:
        """Whether a further signal is another one than the first once more."""
        return self.alone and time.monotonic() - self._when > _SAME

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """The first signal is noted, to be seen at the next step; a second one ends at once."""

        def handle(number: int, frame: Any) -> None:
            if not self.is_first(number) and self.is_impatient():
                raise Interrupted(number, saved=False)

        with handled(handle):
            yield
