"""Which Python objects a run was given: what tells them from others, as far as that is cheap to see."""

import argparse
import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sized
from enum import Enum
from pathlib import PurePath
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import ConcatDataset, Subset

from preceptor.data.dataset import Data, Gathered
from preceptor.tasks.reaching import held, reached
from preceptor.tasks.stored import Stored
from preceptor.tasks.teacher import Function, Lookup, Mixture, Teacher, Transformed

_MOST_BYTES = 2**30  # of one array: reading all of a data set larger than memory would cost more than it tells
_KEPT = Tensor | np.ndarray | nn.Module | FunctionType
_BY_WORDS = (np.generic, torch.dtype, torch.device, Enum, complex, bytes, range, slice, PurePath)
_NAMESPACES = (SimpleNamespace, argparse.Namespace)
_OF_MODULES = {*vars(nn.Module()), "_compiled_call_impl"}  # hooks, tensors, parts, the mode, and how it is called
_OPTIONS = " options sha256:"
_ARRAYS = ("inputs", "labels", "data", "targets")  # where data sets commonly keep what they hold in memory


def fingerprint(thing: Any) -> str:
    """Its qualified name and, where there are tensors, arrays or plain values in it, the SHA-256 of these.

    Tensors are found in modules (the state dict), in our teachers and data sets, in lists, partial functions and bound
    methods, in what a function or an object can reach (`preceptor.tasks.reaching`), and among a data set's attributes;
    plain values in our transforms, too. Of a function beside that only the name is known: that it was edited, closes
    over another number or reads a file, is not seen.

    >>> fingerprint(nn.functional.relu)
    'torch.nn.functional:relu'
    >>> fingerprint(nn.functional.relu) == fingerprint(functools.partial(nn.functional.relu, inplace=True))
    False
    """
    if isinstance(thing, Function) and thing.distribution == "softmax":
        return fingerprint(thing.function)  # as if it had been handed over by itself
    found = list(parts(thing))
    if not found:
        return qualified_name(thing)
    sha = hashlib.sha256()
    for part in found:
        _feed(sha, part)
    return f"{qualified_name(thing)} sha256:{sha.hexdigest()}"


def criterion_fingerprint(module: nn.Module) -> str:
    """The same of a module that is a loss or an objective: also of the attributes of it and of its parts, which are
    options such as a temperature; whether it is in training mode is none.

    Followed are lists, sets, mappings, data classes, namespaces and what else is made by the package of the module that
    has it; of any other object the class is known, and the arrays that it can reach.

    >>> one, other = (criterion_fingerprint(nn.HuberLoss(delta=delta)) for delta in (1.0, 2.0))
    >>> one.partition(" ")[0], one == other, one == criterion_fingerprint(nn.HuberLoss())
    ('torch.nn.modules.loss:HuberLoss', False, True)
    """
    return f"{qualified_name(module)}{_OPTIONS}{_digest(_options(module, type(module), ()))}"


def is_same(there: str, here: str) -> bool:
    """Whether a run's fingerprint of an object and ours are of one: an earlier version wrote a loss's class alone."""
    return there in (here, here.partition(_OPTIONS)[0])


def _options(value: Any, owner: type, above: tuple[Any, ...]) -> Any:
    """What `_feed` takes of a value among the attributes of a module of class `owner`, or of what lies in one."""
    if any(value is each for each in above):
        return "what holds it"
    inner = functools.partial(_options, owner=owner, above=(*above, value))
    match value:
        case nn.Module():
            return [_module_options(name, part, (*above, value)) for name, part in value.named_modules()]
        case _ if isinstance(value, _BY_WORDS):
            return repr(value)
        case set() | frozenset():
            return [qualified_name(value), *sorted(_digest(inner(each)) for each in value)]
        case list() | tuple() | collections.deque():
            return [qualified_name(value), *map(inner, value)]
        case Mapping():
            return {key: inner(each) for key, each in value.items()}
        case _ if _has_options(value, owner):
            return [qualified_name(value), {name: inner(each) for name, each in held(value).items()}]
        case MethodType():
            return [value.__func__, inner(value.__self__)]
    return value


def _module_options(name: str, part: nn.Module, above: tuple[Any, ...]) -> list[Any]:
    own = {key: _options(value, type(part), above) for key, value in vars(part).items() if key not in _OF_MODULES}
    tensors = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
    return [name, qualified_name(part), own, {key: each for key, each in tensors.items() if not is_lazy(each)}]


def _has_options(value: Any, owner: type) -> bool:
    """Not of what others have made, such as a logger, which is another in each process."""
    if isinstance(value, type | FunctionType | BaseModel):
        return False
    ours = type(value).__module__.partition(".")[0] == owner.__module__.partition(".")[0]
    return ours or dataclasses.is_dataclass(value) or isinstance(value, _NAMESPACES)


def qualified_name(thing: Any) -> str:
    """``package.module:name`` of a function or class, or of the class of anything else."""
    if isinstance(thing, functools.partial):
        return qualified_name(thing.func)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def _digest(thing: Any) -> str:
    sha = hashlib.sha256()
    _feed(sha, thing)
    return sha.hexdigest()


def _feed(sha: Any, thing: Any) -> None:
    if isinstance(thing, memoryview):
        sha.update(thing)
        return
    plain = thing is None or isinstance(thing, str | bool | int | float)
    sha.update(f"{thing!r}\0".encode() if plain else f"{qualified_name(thing)}\0".encode())
    for part in () if plain else parts(thing):
        _feed(sha, part)


def parts(thing: Any) -> Iterator[Any]:
    """What `thing` is made of, beside its name; nothing where only the name is known."""
    match thing:
        case Tensor() | np.ndarray():
            yield from (f"{thing.dtype} {tuple(thing.shape)}", _bytes(thing))
        case Teacher():
            yield from (thing.model, thing.distribution, thing.temperature, thing.transform, thing.class_names)
            yield from (thing.preprocessing, thing.input_shape)
        case Function():
            yield from (thing.function, thing.distribution)
        case Mixture():
            yield from (*thing.teachers, *thing.weights)
        case Transformed():
            yield from (thing.teacher, thing.transform)
        case Stored():
            yield from (thing.table, thing.ids, thing.labels, thing.class_names, thing.distribution)
        case Lookup():
            yield from (thing.table, thing.row_of, thing.distribution)
        case BaseModel():
            yield thing.model_dump_json()
        case nn.Module():
            yield from (part for pair in sorted(thing.state_dict().items()) for part in pair)
        case functools.partial():
            yield from reached(thing.func)
            yield from (*thing.args, *(part for pair in sorted(thing.keywords.items()) for part in pair))
        case MethodType():
            yield thing.__self__
        case list() | tuple():
            yield from (len(thing), *thing)
        case Mapping():
            yield from (part for pair in sorted(thing.items(), key=lambda pair: str(pair[0])) for part in pair)
        case Data():
            yield from (thing.train, thing.test, *thing.class_names)
            if thing.pools:
                yield thing.pools
            if thing.collate_fn is not None:
                yield thing.collate_fn
        case Subset():
            yield from (thing.dataset, list(thing.indices))
        case ConcatDataset():
            yield from thing.datasets
        case Gathered():  # a stream may draw its samples anew each time that it is read
            yield from (thing.name, len(thing))
        case Sized() if hasattr(thing, "__getitem__"):
            yield from (len(thing), *getattr(thing, "tensors", ()), getattr(thing, "transform", None))
            held = (getattr(thing, name, None) for name in _ARRAYS)
            yield from (array for array in held if isinstance(array, Tensor | np.ndarray))
            # Not what lies deeper, as that may be samples that were read before, and others in each run.
            others = sorted(vars(thing).items() if hasattr(thing, "__dict__") else ())
            known = {*_ARRAYS, "transform"}
            yield from (value for name, value in others if name not in known and isinstance(value, _KEPT))
            yield from reached(getattr(type(thing), "__getitem__", None))
        case _:
            yield from (found for found in reached(thing) if found is not thing)


def feed_array(sha: Any, array: Tensor | np.ndarray) -> None:
    """Feed the type, the shape and the values of an array to a hash."""
    sha.update(f"{array.dtype} {tuple(array.shape)}\0".encode())
    sha.update(_bytes(array))


def _bytes(array: Tensor | np.ndarray) -> memoryview:
    """The values in the order of the axes, whatever the order in memory; none of those that are no numbers."""
    try:
        if isinstance(array, Tensor):
            array = array.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if array.dtype.hasobject:
            return memoryview(b"")
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data[:_MOST_BYTES]
    except (RuntimeError, TypeError):  # a sparse or quantized tensor
        return memoryview(b"")
