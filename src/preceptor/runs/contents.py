"""What a run is made from, by content: the weights of the teachers that its recipe names, and its data.

The recipe says what they are called; objects that were handed over in their place `preceptor.runs.identity` knows.
"""

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
from torch import Tensor

from preceptor import names
from preceptor.data.dataset import Data
from preceptor.data.listing import listing, paths_in
from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.recipe import TeacherRef
from preceptor.runs import files
from preceptor.runs.identity import feed_array, parts
from preceptor.runs.references import kind_of, name_of
from preceptor.runs.weights import kept_epochs

T = TypeVar("T")
_OF_PRETRAINED = {".json", ".txt", ".model", ".safetensors"}  # weights, configuration, tokenizer
_PLACES = {"path", "data_dir"}  # the options by which our data sets are told where their files are
# Of data that were loaded by name, which nobody changes: a study asks for those of every run.
_known: "WeakKeyDictionary[Any, tuple[ref[Data], dict[str, str]]]" = WeakKeyDictionary()


def contents_of(data: Data, teachers: Sequence[TeacherRef] = ()) -> dict[str, dict[str, str]]:
    """By role, ``data`` and ``teacher``, the digests of what a run is made from.

    Args:
        data: of the run. What was loaded by name is known by its values, and by the files that it reads later.
        teachers: that the run's recipe names; each is known by the file of its weights.

    Raises:
        InputError: a file cannot be read.
    """
    found = {"data": _of_data(data), "teacher": {name_of(each): weights_digest(each) for each in teachers}}
    return {role: content for role, content in found.items() if content}


# -- teachers ----------------------------------------------------------------------------------------------------------


def weights_digest(reference: TeacherRef) -> str:
    """The SHA-256 of the file that holds a teacher's weights, or its outputs: what its run has written down, or else
    computed.
    """
    run = reference.run
    if run.is_file():
        return f"sha256:{files.digest(run)}"
    kind = kind_of(run)
    if kind == "record":
        return _digest_of(files.digest(path) for path in sorted(run.rglob("*.json")))  # they list all others
    if kind == "pretrained":
        return _digest_of(files.digest(path) for path in sorted(run.iterdir()) if path.suffix in _OF_PRETRAINED)
    if reference.epoch is None:
        path = run / f"{reference.weights}.safetensors"
    else:
        path = _checkpoint(run, reference.epoch) / "state.safetensors"
    listed = files.read_json(run / "result.json").get("files", {}).get(path.relative_to(run).as_posix())
    return f"sha256:{listed['sha256'] if listed else files.digest(path)}"


def _checkpoint(run: Path, epoch: int) -> Path:
    """Where the weights after so many epochs are; to read what each checkpoint says of itself takes long."""
    named = list((run / "checkpoints").glob(f"epoch-{epoch:04d}-step-*"))
    return named[0] if len(named) == 1 else kept_epochs(run)[epoch]


def same_teacher(reference: TeacherRef) -> Hashable:
    """What two references have in common if they are one teacher under two names: a link, another path, a copy."""
    try:
        digest = weights_digest(reference)
    except (KeyError, OSError, InputError):  # whoever reads it will say what is missing
        digest = str(reference.run)
    return digest, reference.weights, reference.epoch, reference.member, reference.calibrated


def distinct(given: Sequence[T], key: Callable[[T], Hashable], name: Callable[[T], str]) -> list[T]:
    """Those that are not one thing under another name: of several the first, as noted."""
    if len(given) < 2:
        return list(given)
    first: dict[Hashable, T] = {}
    for each in given:
        known = first.setdefault(key(each), each)
        if known is not each:
            same = "given twice" if name(known) == name(each) else f"the teacher '{name(known)}' under another name"
            note(f"'{name(each)}' is {same}, and counts once")
    return list(first.values())


def _digest_of(digests: Iterable[str]) -> str:
    sha = hashlib.sha256()
    for digest in digests:
        sha.update(digest.encode())
    return f"sha256:{sha.hexdigest()}"


# -- data --------------------------------------------------------------------------------------------------------------


def _of_data(data: Data) -> dict[str, str]:
    if data.origin is None:  # handed over: of what it holds `objects` has the fingerprint
        return listing(paths_in(data))
    with contextlib.suppress(KeyError, TypeError):  # a list cannot be a key
        of, found = _known[data.train]
        if of() is data:
            return found
    found = _of_named_data(data, data.origin)
    with contextlib.suppress(TypeError):
        _known[data.train] = ref(data), found
    return found


def _of_named_data(data: Data, origin: dict[str, Any]) -> dict[str, str]:
    if ":" not in origin["name"]:  # ours are in memory, and without a file they are the same everywhere
        reads = names.options_of(names.find("data", origin["name"]))[0] & _PLACES
        return {"values": _digest(data)} if reads else {}
    return {"values": _digest(data)} | listing([*paths_in(origin), *paths_in(data)])


def samples_digests(dataset: Any) -> dict[str, str]:
    """The digests of what a training set holds, by what is digested: its values in memory, and the files it reads.

    They are the same however the data set came about, by name or as an object, and after its files were copied.
    """
    found = {"values": _digest(dataset)} | listing(paths_in(dataset))
    return {name: digest for name, digest in found.items() if name != "times"}


def _digest(data: Any) -> str:
    """The SHA-256 of all arrays and plain values that are found in a data set, whatever its classes are called."""
    sha = hashlib.sha256()
    for value in _values(data):
        if isinstance(value, Tensor | np.ndarray):
            feed_array(sha, value)
        else:
            sha.update(f"{value!r}\0".encode())
    return f"sha256:{sha.hexdigest()}"


def _values(thing: Any) -> Iterator[Any]:
    if thing is None or isinstance(thing, str | bool | int | float | Tensor | np.ndarray):
        yield thing
        return
    for part in parts(thing):
        yield from _values(part)
