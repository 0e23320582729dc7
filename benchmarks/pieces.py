"""Long benchmarks in pieces: runs in folders, as far as a budget goes, shared among processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preceptor.errors import InputError
from preceptor.runs.files import read_json, write_text


class OutOfTime(Exception):
    """The next run would not end within the budget."""


class Clock:
    """Says before each run whether the budget still allows one of its kind, by what those before it took.

    Args:
        budget: seconds from now; None is no limit.
        file: where the longest time of each kind is kept for later calls.
    """

    def __init__(self, budget: float | None, file: Path) -> None:
        self.start, self.budget, self.file = time.monotonic(), budget, file
        self.longest: dict[str, float] = read_json(file) if file.is_file() else {}

    @contextmanager
    def run(self, kind: str, guess: float = 0.0) -> Iterator[None]:
        """Take the time of a run; one of an unknown kind is taken to be as long as the guess and the longest of all."""
        begin = time.monotonic()
        expected = self.longest.get(kind, max(guess, *self.longest.values(), 0.0))
        if self.budget is not None and begin - self.start + expected > self.budget:
            raise OutOfTime
        yield
        took = time.monotonic() - begin
        self.longest[kind] = max(took, self.longest.get(kind, 0.0))
        write_text(self.file, json.dumps(self.longest, indent=2) + "\n")
        print(f"{kind}: {took:.0f} s", file=sys.stderr, flush=True)


def side_by_side(script: str, flag: str, parts: Sequence[str], processes: int, given: Sequence[str]) -> None:
    """Run a script once a process, each with its share of some parts, said by a flag, and of the cores.

    Raises:
        InputError: one of them has failed.
    """
    share = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    started = []
    for number in range(processes):
        own = parts[number::processes]
        words = [sys.executable, script, *given, "--processes", "1", flag, *own]
        started += [subprocess.Popen(words, env=share, stdout=subprocess.DEVNULL)] if own else []
    ended = [process.wait() for process in started]
    if any(ended):
        raise InputError("a process ended with an error, printed above; the same command goes on")
