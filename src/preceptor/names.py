"""From names in a recipe to functions: our public names, or an outsider's ``package.module:name``."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import InputError, did_you_mean
from preceptor.schema import Component

ROOMS = {
    "data": "preceptor.data",
    "model": "preceptor.models",
    "objective": "preceptor.teaching",
    "loss": "preceptor.losses",
    "augmentation": "preceptor.data.augment",
}


def find(room: str, name: str) -> Callable[..., Any]:
    """The public function or class called `name` in a room, or an outsider's ``package.module:name``.

    Raises:
        InputError: nothing is called that; the nearest known name is offered.
    """
    if ":" in name:
        return _outsider(room, name)
    known = names(room)
    if name in known:
        return getattr(importlib.import_module(ROOMS[room]), name)
    hint = did_you_mean(name, known)
    raise InputError(f"there is no {room} called '{name}'; {hint} Your own goes in as package.module:name.")


def names(room: str) -> list[str]:
    """The public names of a room that a recipe may use."""
    module = importlib.import_module(ROOMS[room])
    return [name for name in module.__all__ if room != "objective" or _is_objective(getattr(module, name))]


def _is_objective(found: Any) -> bool:
    """`teaching` also holds what is not minimised: averages of weights, post-hoc temperature."""
    function = getattr(found, "forward", None) if isinstance(found, type) else found
    return function is not None and {"labels", "mask"} <= options_of(function)[0]


def _outsider(room: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # a console script does not look into the folder it is called from
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"the {room} '{name}' cannot be imported: {error}; run where it can, or install its package"
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"the module '{module_name}' has no callable '{attribute}'; {did_you_mean(attribute, names)}")
    return found


def options_of(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """The keyword options that `function` takes, and whether it takes any keyword at all."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return set(), True
    keywords = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _required(function: Callable[..., Any]) -> set[str]:
    """The keyword options that `function` cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return set()
    kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {p.name for p in parameters if p.kind in kinds and p.default is p.empty}


def option(room: str, component: Component, name: str, otherwise: Any) -> Any:
    """An option of the named function: the recipe's, or the function's default, or `otherwise` if it has none."""
    if name in component.options:
        return component.options[name]
    return _default(find(room, component.name), name, otherwise)


def _default(function: Callable[..., Any], name: str, otherwise: Any = None) -> Any:
    """The default of an option of `function`, or `otherwise` if it has none."""
    try:
        found = inspect.signature(function).parameters.get(name)
    except ValueError:  # written in C
        return otherwise
    return otherwise if found is None or found.default is found.empty else found.default


def accepted(function: Callable[..., Any], supplied: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `supplied` keyword arguments that the signature of `function` takes.

    Through ``**options`` goes `num_classes` alone: timm's and torchvision's functions hand all of these on to a model,
    which knows no `input_shape`.
    """
    known, anything = options_of(function)
    return {name: value for name, value in supplied.items() if name in known or (anything and name == "num_classes")}


def check_options(room: str, component: Component, function: Callable[..., Any], *, own: tuple[str, ...] = ()) -> None:
    """Refuse options that the named function does not have; `own` names those that Preceptor fills in
    itself.
    """
    known, anything = options_of(function)
    for option, value in component.options.items():
        if option in own or (option not in known and not anything):
            hint = did_you_mean(option, known - set(own))
            raise InputError(f"unknown key '{room}.{option}' for the {room} '{component.name}'; {hint}")
        # In YAML 1.2 'no' is text, and text is as good as true to a function that does not look.
        if isinstance(_default(function, option), bool) and not isinstance(value, bool):
            raise InputError(f"'{room}.{option}' is {value!r}; give true or false")


def call(room: str, component: Component, supplied: Mapping[str, Any] | None = None) -> Any:
    """Call the named function with the recipe's options, and those of `supplied` that its signature takes.

    Raises:
        InputError: no such name or option, or the function refuses a value.
    """
    function = find(room, component.name)
    supplied = dict(supplied or {})
    check_options(room, component, function, own=tuple(supplied))
    for option in sorted(_required(function) - component.options.keys() - supplied.keys()):
        raise InputError(f"the {room} '{component.name}' needs '{option}'; give {room}.{option}=...")
    try:
        return function(**component.options, **accepted(function, supplied))
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"the {room} '{component.name}' refuses {component.options}: {error}") from error
