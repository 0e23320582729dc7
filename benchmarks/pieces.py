"""Long benchmarks in pieces: runs in folders, as far as a budget goes, shared among processes."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from foretold.command import command
from preceptor.errors import InputError
from preceptor.interrupts import Interrupted
from preceptor.runs import circumstances
from preceptor.runs.files import finite, read_json, write_text

QUICK = "quick"


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


# -- the command line --------------------------------------------------------------------------------------------------


def command_line(about: str, sizes: Iterable[str], data: str, parts: str) -> argparse.ArgumentParser:
    """The options that long benchmarks have in common; `size_of` says which form was asked for.

    Args:
        about: what the script is.
        sizes: its forms, of which ``quick`` has an option of its own.
        data: what the folder of the data holds.
        parts: an example of a part.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[name for name in sizes if name != QUICK], default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--data-dir", type=Path, help=f"folder with {data}")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no run that would not end in time")
    parser.add_argument("--parts", nargs="+", metavar="PART", help=f"these alone, such as {parts}; by default all")
    parser.add_argument("--processes", type=int, default=1, help="share the parts and the cores among so many")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--quick", action="store_true", help="seconds, on data made on the spot; measures nothing")
    return parser


def parsed(parser: argparse.ArgumentParser, given: Sequence[str] | None) -> argparse.Namespace:
    """The command line; its size is ``quick`` where that was asked for."""
    arguments = parser.parse_args(given)
    if arguments.data_dir is None and not arguments.quick:
        parser.error("--data-dir must be given, or --quick for data made on the spot")
    if arguments.quick:
        arguments.size = QUICK
    return arguments


def in_phases(
    script: str,
    phases: Sequence[Sequence[str]],
    arguments: argparse.Namespace,
    given: Sequence[str] | None,
    make: Callable[[Clock], Callable[[str], None]],
) -> bool:
    """All parts, of one phase after the other, as far as the budget goes; whether all of them are complete.

    Args:
        script: which file processes run.
        phases: parts that can be done side by side, each phase once those before it are complete.
        arguments: of `parsed`; ``parts`` are done alone, and make the phases of no account.
        given: the words that they were parsed from.
        make: what does a part, made in the process that does it.
    """
    start = time.monotonic()
    for phase in filter(None, [arguments.parts] if arguments.parts else phases):
        if arguments.processes > 1:
            words = list(sys.argv[1:] if given is None else given)
            left = [] if arguments.budget is None else ["--budget", str(arguments.budget - time.monotonic() + start)]
            side_by_side(script, "--parts", phase, arguments.processes, words + left)
        elif not one_by_one(phase, arguments, make):
            return False
    return True


def one_by_one(
    parts: Sequence[str], arguments: argparse.Namespace, make: Callable[[Clock], Callable[[str], None]]
) -> bool:
    """Some parts, as far as the budget goes; whether all of them are complete."""
    clock = Clock(arguments.budget, arguments.out / f"times-{parts[0].replace('/', '-')}.json")
    do = make(clock)
    try:
        for part in parts:
            do(part)
    except Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return False
    except OutOfTime:
        print("the budget allows no further run; the same command goes on", file=sys.stderr)
        return False
    return True


def write_tables(
    name: str, result: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str], out: Path, device: str
) -> None:
    """Write what a script has found, with how it was made, as `NAME.json` and `NAME.md`, and print the tables."""
    made = {
        "command": command(),
        "circumstances": circumstances("cuda" if device == "auto" and torch.cuda.is_available() else "cpu"),
    }
    whole = {**result, **made}
    write_text(out / f"{name}.json", json.dumps(finite(whole), indent=2) + "\n")
    table = markdown(whole)
    write_text(out / f"{name}.md", table)
    print(table)


def main_of(main: Callable[[], None]) -> None:
    """Run a script; what its user did wrong is said in a line."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
