"""Files that a data set reads: found in its options and attributes, and told from others by what is in them."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.notices import note

MOST_BYTES, MOST_FILES = 2**28, 10_000
"""Up to so many all contents are read; of more a sample."""
_SAMPLE, _SAMPLE_BYTES = 64, 2**20
_DEPTH = 8
# Names of options and attributes whose text is a path, such as `root`, `data_dir`, `image_paths`.
_NAMED = re.compile(r"(root|path|dir|directory|folder|file|filename|sample|img|image)s?$")
_OURS = ("recipe.yaml", "study.yaml")  # in a folder that a run or a study writes


def paths_in(thing: Any, key: str = "", depth: int = _DEPTH) -> Iterator[Path]:
    """Files and folders that a data set, or the options of one, speaks of; not all need to be there.

    >>> [path.name for path in paths_in({"root": "images", "split": "train", "table": "tables/a.csv"})]
    ['images', 'a.csv']
    """
    if isinstance(thing, Path):
        yield thing
    elif isinstance(thing, str):
        could_be = thing and len(thing) < 4096 and "\0" not in thing
        if could_be and (_NAMED.search(key) or os.sep in thing or _is_file(Path(thing))):
            yield Path(thing).expanduser()
    elif depth == 0:
        return
    elif isinstance(thing, Mapping):
        for name, value in thing.items():
            yield from paths_in(value, str(name), depth - 1)
    elif isinstance(thing, list | tuple) or (isinstance(thing, np.ndarray) and thing.dtype.kind in "UO"):
        # Labels, texts and samples in memory need not be looked through.
        if len(thing) and any(map(_is_there, paths_in(thing[0], key, depth - 1))):
            for each in thing:
                yield from paths_in(each, key, depth - 1)
    elif isinstance(thing, Data) or (hasattr(thing, "__getitem__") and hasattr(thing, "__dict__")):
        yield from paths_in(getattr(thing, "cache_files", None), "files", depth - 1)  # of Hugging Face's data sets
        for name, value in vars(thing).items():
            yield from paths_in(value, name, depth - 1)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is no path
        return False


def _is_file(path: Path) -> bool:
    """Whether a text that nobody calls a path is one all the same: of a file with a suffix that is there."""
    return bool(path.suffix) and _is_there(path) and path.is_file()


def listing(paths: Iterable[Path]) -> dict[str, str]:
    """What tells files from others of their name: the SHA-256 of their names and contents.

    Of many or large ones it is, as noted, that of names and sizes, of the times when they were last changed, and of a
    sample of contents. Names count from the folder that all are in, so that a tree may be moved.
    """
    found = dict(sorted(_files(paths).items()))
    if not found:
        return {}
    top = os.path.commonpath([os.path.dirname(path) for path in found])
    names = {path: os.path.relpath(path, top) for path in found}
    size = sum(each.st_size for each in found.values())
    if len(found) <= MOST_FILES and size <= MOST_BYTES:
        return {"files": _digest((name, _content(path)) for path, name in names.items())}
    sample = list(found)[:: -(-len(found) // _SAMPLE)]
    note(
        f"the data are known by names, sizes and times of {len(found):,} files ({size / 1e9:.1f} GB) and by the "
        f"beginnings of {len(sample)} of them"
    )
    return {
        "names and sizes": _digest((name, found[path].st_size) for path, name in names.items()),
        "times": _digest(each.st_mtime_ns for each in found.values()),
        "sampled contents": _digest(_content(path, _SAMPLE_BYTES) for path in sample),
    }


def _files(paths: Iterable[Path]) -> dict[str, os.stat_result]:
    """The files among some paths, and those in the folders among them, by their real path."""
    found: dict[str, os.stat_result] = {}
    folders: set[str] = set()
    for path in paths:
        try:
            about = os.stat(path)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(about.st_mode):
            found[os.path.realpath(path)] = about
        elif stat.S_ISDIR(about.st_mode):
            folders.add(os.path.realpath(path))
    for folder in folders:
        if Path.cwd().is_relative_to(folder):
            note(
                f"the data set speaks of the folder '{folder}', in which this command works; whether its files stay as "
                "they are is not known"
            )
        else:
            found.update(_in_folder(folder))
    return found


def _in_folder(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files in a folder and those below, but for hidden ones and what runs write."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith((".", "__pycache__"))]
    if any(entry.name in _OURS for entry in visible):
        return
    for entry in visible:
        if entry.is_dir():
            yield from _in_folder(entry.path)
        elif entry.is_file():
            yield entry.path, entry.stat()


def _content(path: str, most: int | None = None) -> str:
    try:
        with open(path, "rb") as file:
            if most is None:
                return hashlib.file_digest(file, "sha256").hexdigest()
            return hashlib.sha256(file.read(most)).hexdigest()
    except OSError as error:
        raise InputError(f"the data's file '{path}' cannot be read: {error.strerror}; make it readable") from None


def _digest(values: Iterable[object]) -> str:
    sha = hashlib.sha256()
    for value in values:
        sha.update(f"{value!r}\0".encode())
    return f"sha256:{sha.hexdigest()}"
