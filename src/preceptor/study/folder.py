"""A study's folder: who may write to it, what it holds once the study is complete, and how long it has worked."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.recipe import dump, parse, read_yaml
from preceptor.runs import integrity
from preceptor.runs.files import (
    finite,
    locked,
    make_folder,
    read_json,
    remove,
    remove_left_overs,
    write_json,
    write_text,
)

_COMPUTED_BY = ("workers", "threads")
# The results of its runs vouch for all their other files.
_VOUCHED_FOR = ("study.yaml", f"**/{integrity.RESULT}")


def completed(
    folder: Path, file_name: str, study: BaseModel, make: Callable[["Clock"], dict[str, Any]]
) -> dict[str, Any]:
    """The result of a study: read if it is complete, and otherwise made and written.

    Args:
        folder: the study's folder.
        file_name: of the result in it. One that is there is returned as it is, with the time and date of its making.
        make: does what is not done yet, and returns the result but for its ``time_total``.

    Raises:
        InputError: the folder holds another study, or another process is at work in it.
    """
    with claimed(folder, study) as clock:
        path = folder / file_name
        if path.exists():
            return read_complete(path)
        result = finite(make(clock) | {"time_total": clock.time_total})
        integrity.write_sealed(path, result | {"files": integrity.manifest(folder, _VOUCHED_FOR, without=())})
    return result


def read_complete(path: Path) -> dict[str, Any]:
    """The result of a complete study, without the checksums in it.

    Raises:
        InputError: it is damaged, or the study.yaml beside it is.
    """
    content = integrity.read_sealed(path)
    if "sha256" not in content:
        note(f"the study '{path}' was written without checksums: it is read unchecked")
    wanted = content.get("files", {}).get("study.yaml")
    problem = integrity.difference(path.with_name("study.yaml"), wanted) if wanted else None
    if problem:
        raise InputError(f"{problem}; copy the study anew")
    return integrity.unsealed(content)


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse a file, and a folder that holds anything but runs and is no study.

    Raises:
        InputError: so it is.
    """
    if (folder / "study.yaml").is_file():
        return
    if folder.is_file() or (folder.is_dir() and any(not _holds_runs(path) for path in folder.iterdir())):
        raise InputError(f"'{folder}' exists and is no study; give a new folder", argument="folder")


def _holds_runs(path: Path) -> bool:
    """Whether something is a run, or a folder of runs such as those of a study's teachers; hidden files pass."""
    return path.name.startswith(".") or any(any(path.glob(f"{depth}recipe.yaml")) for depth in ("", "*/", "*/*/"))


def refuse_other(folder: Path, study: BaseModel) -> None:
    """Refuse a folder that holds another study.

    Students are stored by the row of their teacher, so even another order of the teachers is another study.
    """
    path = folder / "study.yaml"
    if not path.exists():
        return
    try:
        there = parse(type(study), read_yaml(path))
    except InputError as error:
        raise InputError(f"'{path}' cannot be read: {error}; copy the study anew, or give another folder") from None
    # Read and written again: a version that knows further keys fills in their defaults.
    if _essence(there) != _essence(study):
        raise InputError(
            f"the folder '{folder}' holds another study (see its study.yaml); give another folder", argument="folder"
        )


def _essence(study: BaseModel) -> str:
    """The study but for how many processes and threads compute it, which changes no number."""
    fields = type(study).model_fields
    return dump(study.model_copy(update={name: fields[name].default for name in _COMPUTED_BY if name in fields}))


@contextlib.contextmanager
def claimed(folder: Path, study: BaseModel) -> Iterator["Clock"]:
    """Make a study's folder or find it again, and hold it while this process is at work in it.

    Raises:
        InputError: it holds another study or something else, or another process is at work in it.
    """
    refuse_foreign_folder(folder)
    make_folder(folder)
    with locked(folder):
        refuse_other(folder, study)
        remove_left_overs(folder)
        recipe, clock = folder / "study.yaml", Clock(folder)
        new = not recipe.exists()
        if new:
            write_text(recipe, _essence(study))
        try:
            with clock:
                yield clock
        except InputError:
            # Refused before anything was trained: the mended recipe, which is another study, may have the folder.
            if new and not any(path.is_dir() for path in folder.iterdir()):
                remove(recipe)
                remove(clock.path)
            raise


class Clock:
    """The seconds that a study has worked, over all its starts: kept in ``time.json`` until the study is complete.

    What a kill cuts off since the last note is not counted.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Path = folder / "time.json"
        before = read_json(self.path).get("time_total", 0.0) if self.path.exists() else 0.0
        self._started = time.perf_counter() - before

    @property
    def time_total(self) -> float:
        """Seconds so far."""
        return round(time.perf_counter() - self._started, 1)

    def noting(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say`, and note the time whenever something is said."""

        def said(text: str) -> None:
            self.note()
            say(text)

        return said

    def note(self) -> None:
        """Write down the time so far."""
        write_json(self.path, {"schema_version": 1, "time_total": self.time_total})

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stopped or failed, the time is noted; complete, it is in the study's result."""
        if kind is None:
            remove(self.path)
        else:
            with contextlib.suppress(InputError):  # a full disk: what went wrong first is what is told
                self.note()
