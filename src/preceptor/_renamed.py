"""Names that have moved: found where they are now, with a note."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Finder = Callable[[str], Any]


def renamed(old: str, new: str | Mapping[str, str]) -> Finder:
    """A module's ``__getattr__`` for names that it no longer holds.

    Args:
        old: the module's name.
        new: the module that holds all of them now, or for each name the module that does.
    """

    def find(name: str) -> Any:
        place = new if isinstance(new, str) else new.get(name)
        if place is None or name.startswith("__"):
            raise AttributeError(f"module '{old}' has no attribute '{name}'")
        found = getattr(importlib.import_module(place), name)
        warnings.warn(f"'{old}.{name}' is now '{place}.{name}'", DeprecationWarning, stacklevel=2)
        return found

    return find
