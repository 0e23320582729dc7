"""Teachers by name: ``RUN``, ``RUN:best``, ``RUN:epoch-4:member-2``, ``A+B``, files of logits (docs/teachers.md)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import TeacherRef, parse
from preceptor.runs.folder import read_result
from preceptor.runs.weights import kept_epochs

Source = Path | TeacherRef
"""A file of logits, or a run's teacher."""

RECORD = "record.json"
"""What is in a folder of recorded outputs (`preceptor.records`), and in no run's."""

_WEIGHTS = ("last", "best", "average", "teaching")
_MOMENTS = {"weights", "epoch"}


def teacher_references(name: str) -> list[TeacherRef]:
    """What a student's recipe calls the teacher that ``assess`` calls `name`: several are an ensemble.

    Raises:
        InputError: it is no run and no file, or all epochs of a run.
    """
    terms = terms_of(name)
    if any(len(term) > 1 for term in terms):
        raise InputError(
            f"'{name}' stands for several teachers, an epoch each; name one epoch, such as RUN:epoch-4, or let "
            "teacher=auto choose"
        )
    sources = [source for term in terms for source in term]
    return [parse(TeacherRef, {"run": str(each)}) if isinstance(each, Path) else each for each in sources]


def terms_of(name: str) -> list[list[Source]]:
    """The terms of an ensemble, or the one there is; each stands for one teacher or, as ``RUN:epochs``, for several."""
    parts, found = name.split("+"), []
    while parts:
        for count in range(len(parts), 0, -1):  # the longest, as a path may hold a plus of its own
            sources = _sources("+".join(parts[:count]))
            if sources is not None:
                break
        else:
            raise InputError(
                f"there is no run folder or file '{parts[0]}'; give a run folder or a .npz, .npy or .parquet file"
            )
        found.append(sources)
        parts = parts[count:]
    return found


def is_record(path: Path) -> bool:
    """Whether a folder holds a teacher's recorded outputs."""
    return (path / RECORD).is_file()


def _sources(name: str) -> list[Source] | None:
    """What a term stands for: a file, or the record or run that its longest part names, with selectors after colons."""
    parts = name.split(":")  # a path may hold colons of its own
    for count in range(len(parts), 0, -1):
        start = ":".join(parts[:count])
        if Path(start).is_file() and count == len(parts):
            return [Path(start)]
        if start and Path(start).is_dir():
            if is_record(Path(start)) and count == len(parts):
                return [parse(TeacherRef, {"run": start})]
            if any("+" in selector for selector in parts[count:]):
                return None  # an ensemble, of which this run is the first
            return [*_references(Path(start), parts[count:])]
    return None


def _references(run: Path, selectors: Sequence[str]) -> list[TeacherRef]:
    """The teachers that ``RUN:selector:selector`` stands for."""
    if is_record(run):
        raise InputError(f"'{run}' is a record, which has no weights, epochs or members; leave ':{selectors[0]}' out")
    read_result(run)
    chosen: dict[str, Any] = {}
    for selector in selectors:
        key, value = _choice(run, selector)
        if key in chosen or (key in _MOMENTS and chosen.keys() & _MOMENTS):
            raise InputError(f"'{run}:{':'.join(selectors)}' names two moments or members of the run; give one")
        chosen[key] = value
    chosen["run"] = str(run)
    if chosen.get("epoch") != "all":
        return [parse(TeacherRef, chosen)]
    kept = kept_epochs(run)
    if len(kept) < 2:
        raise InputError(
            f"the run '{run}' has kept {len(kept)} of its epochs; train with training.keep=all to keep them"
        )
    return [parse(TeacherRef, chosen | {"epoch": epoch}) for epoch in kept]


def _choice(run: Path, selector: str) -> tuple[str, int | str | bool]:
    """The key of a `TeacherRef` that a selector sets, and its value; ``all`` for every epoch."""
    if selector == "calibrated":
        return "calibrated", True
    numbered = re.fullmatch(r"(epoch|member)-(\d+)", selector)
    if numbered:
        return numbered[1], int(numbered[2])
    if selector in _WEIGHTS:
        return "weights", selector
    if selector != "epochs":
        hint = did_you_mean(selector, [*_WEIGHTS, "calibrated", "epochs", "epoch-1", "member-0"])
        raise InputError(f"'{run}:{selector}' names no weights of the run; {hint}")
    return "epoch", "all"


def name_of(reference: TeacherRef) -> str:
    """A reference as it is written on the command line."""
    moment = f"epoch-{reference.epoch}" if reference.epoch is not None else reference.weights
    selectors = [moment] if moment != "last" else []
    selectors += ["calibrated"] if reference.calibrated else []
    selectors += [f"member-{reference.member}"] if reference.member is not None else []
    return ":".join([str(reference.run), *selectors])
