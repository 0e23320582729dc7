"""What a function or an object of somebody's can reach: the tensors, arrays and modules behind a name."""

import functools
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_DEPTH, _WIDTH, _MOST = 6, 200, 10_000
# What their functions name is their own business.
_LIBRARIES = {"torch", "numpy", "preceptor"}


def reached(thing: Any) -> list[nn.Module | Tensor | np.ndarray]:
    """The modules, tensors and arrays that a thing can reach: what it closes over, is bound to, holds, or names.

    They come in the order in which they are found, each once; what is within a module is not looked at. An object's
    attributes and `__slots__`, a function's closure, defaults and global names, and the parts of a partial function, a
    list or a mapping are followed, six deep; what an extension in C holds is not seen.

    >>> weight = np.ones(3)
    >>> [found is weight for found in reached(functools.partial(np.dot, weight))]
    [True]
    """
    found: list[nn.Module | Tensor | np.ndarray] = []
    seen: dict[int, Any] = {}  # kept, so that no other object is given the number of one that is gone

    def walk(thing: Any, depth: int) -> None:
        if depth == 0 or id(thing) in seen or len(seen) > _MOST:
            return
        seen[id(thing)] = thing
        if isinstance(thing, nn.Module | Tensor | np.ndarray):
            found.append(thing)
            return
        for part in list(_parts(thing))[:_WIDTH]:
            walk(part, depth - 1)

    walk(thing, _DEPTH)
    return found


def _parts(thing: Any) -> Iterator[Any]:
    match thing:
        case str() | bytes() | type() | ModuleType():
            return
        case functools.partial():
            yield from (thing.func, *thing.args, *thing.keywords.values())
        case MethodType():
            yield from (thing.__self__, thing.__func__)
        case FunctionType():
            yield from (cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))
            yield from (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
            if (thing.__module__ or "").partition(".")[0] not in _LIBRARIES:
                yield from (thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__)
            yield vars(thing).get("__wrapped__")
        case Mapping():
            yield from thing.values()
        case list() | tuple() | set():
            yield from thing
        case _:
            yield from held(thing).values()
            yield vars(type(thing)).get("__call__")


def held(thing: Any) -> dict[str, Any]:
    """An object's attributes, those in `__slots__` too."""
    slots = {name: getattr(thing, name) for name in _slots(type(thing)) if hasattr(thing, name)}
    return {**(vars(thing) if hasattr(thing, "__dict__") else {}), **slots}


def _slots(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        slots = vars(each).get("__slots__", ())
        yield from (name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__"))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: CodeType) -> Iterator[str]:
    """The global names that a function, and those written within it, may use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
