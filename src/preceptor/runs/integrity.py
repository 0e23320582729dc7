"""Checksums: what a run's files were when it was complete, and whether they still are.

``result.json`` lists the SHA-256 of every file of its run, and is sealed by one of itself; so are ``choice.json`` and
the results of studies, which list the results of their runs. Whoever reads a file of a run asks `checked` for it.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.runs import files

SCHEMA = 2
"""The format of runs that this version writes, and the newest that it reads."""
RESULT, CHOICE, TEACHING = "result.json", "choice.json", "teaching.safetensors"
RECORD, SHARDS = "record.json", "shards.json"
"""Of a record (`preceptor.records`): its manifest, and what each of its writers has written."""
# What a run writes; whatever else lies in its folder, a tracker's logs say, is not ours to vouch for.
WRITTEN = ("recipe.yaml", "*.json", "*.jsonl", "*.safetensors", "checkpoints/*/*", "pretrained/*")
Files = dict[str, dict[str, Any]]


def manifest(
    folder: Path, patterns: Sequence[str] = WRITTEN, *, without: Sequence[str] = (RESULT, CHOICE, TEACHING)
) -> Files:
    """The SHA-256 and the size in bytes of every file that matches, by its path within the folder, but for some."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    names = {path.relative_to(folder).as_posix(): path for path in found if not path.name.startswith(".")}
    return {
        name: {"sha256": digest_of(path), "size": path.stat().st_size}
        for name, path in names.items()
        if name not in without
    }


def checked(folder: Path, name: str) -> Path:
    """The path of a run's file, once it is sure that the file is the one that the run ended with.

    A run that is not complete has nothing to be held to. One of format 1 has no checksums, which is said once.

    Raises:
        InputError: the file has changed or is missing, or is none of the run's.
    """
    path, listed = folder / name, _listed(folder)
    if listed is None or (name not in listed and not path.exists()):
        return path
    if name not in listed:
        raise InputError(
            f"'{path}' is none of the files that the run's {RESULT} lists; remove it, or copy the run anew"
        )
    problem = difference(path, listed[name])
    if problem:
        raise InputError(f"{problem}; copy the run anew, or remove the folder and run the same command again")
    return path


def difference(path: Path, wanted: Mapping[str, Any]) -> str | None:
    """How a file differs from what is listed of it, or None."""
    if not path.is_file():
        return f"'{path}' is missing"
    if digest_of(path) != wanted.get("sha256"):
        return f"'{path}' is damaged or of another run: its content does not match the SHA-256 that was written down"
    return None


def _listed(folder: Path) -> Files | None:
    """What the run lists of its files; None if it is not complete, or too old to."""
    result = folder / RESULT
    if not result.is_file():
        return None
    found = _list_in(result, _stamp(result))
    if found is None:
        _say_unchecked(folder.resolve())
        return None
    choice = folder / CHOICE
    if not choice.is_file():
        return found
    check_choice(choice)
    return found | (_list_in(choice, _stamp(choice)) or {})


def check_choice(path: Path) -> None:
    """Refuse a ``choice.json`` that was written beside another result.

    Raises:
        InputError: so it is, or damaged.
    """
    if not is_of(path, path.with_name(RESULT)):
        raise InputError(f"'{path}' is damaged or of another run than the {RESULT} beside it; copy the run anew")


def check_shards(path: Path) -> None:
    """Refuse a ``shards.json`` of another record than the one whose writer's folder it is in.

    Raises:
        InputError: so it is, or damaged.
    """
    if not is_of(path, path.parent.parent / RECORD):
        raise InputError(f"'{path}' is damaged or of another record than the {RECORD} above it; copy the record anew")


def is_of(path: Path, whole: Path) -> bool:
    """Whether a sealed file says by its entry ``of`` that it was written for the sealed file `whole`.

    Raises:
        InputError: one of the two is damaged.
    """
    return read_sealed(path).get("of") == read_sealed(whole).get("sha256", "")


@functools.cache
def _list_in(path: Path, stamp: tuple[int, ...]) -> Files | None:
    """The files that a sealed JSON file lists."""
    return read_sealed(path).get("files")


@functools.cache
def _say_unchecked(folder: Path) -> None:
    note(f"the run '{folder}' is of format 1, which has no checksums: its files are read unchecked")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, computed once as long as the file is not touched."""
    return _digest(path.absolute(), _stamp(path))


@functools.cache
def _digest(path: Path, stamp: tuple[int, ...]) -> str:
    return files.digest(path)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when somebody writes to a file."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


# -- seals -------------------------------------------------------------------------------------------------------------


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON content with the SHA-256 of all of it under ``sha256``."""
    plain = json.loads(files.to_json(content))
    files.write_json(path, plain | {"sha256": _content_digest(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """JSON content that may be sealed: what has checksums is held to them, and from format 2 on all has.

    Raises:
        InputError: it is damaged, or of a newer format.
    """
    content = files.read_json(path)
    version, of_run = content.get("schema_version"), path.name in (RESULT, CHOICE)
    if of_run and isinstance(version, int) and version > SCHEMA:
        raise InputError(f"'{path}' has format {version}, newer than this Preceptor's {SCHEMA}; upgrade Preceptor")
    if {"files", "sha256"} & content.keys() or (of_run and version != 1):
        # The text too: 1e-05 and 1E-05 are one number.
        same = path.read_text(encoding="utf-8") == files.to_json(content, indent=1)
        if not same or content.get("sha256") != _content_digest(content):
            raise InputError(
                f"'{path}' is damaged: its content does not match its SHA-256; copy the run anew, or remove the folder "
                "and run the same command again"
            )
    return content


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without its checksums."""
    return {key: value for key, value in content.items() if key not in ("files", "sha256")}


def _content_digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
