"""From names in a recipe to functions: our public names, or an outsider's ``package.module:name``.

Whoever gives a recipe with a ``package.module:name`` in it has asked for that code. What the recipe or the weights of a
folder name nobody has asked for: it is imported only where the caller trusts it.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from preceptor.errors import InputError, did_you_mean
from preceptor.schema import Component, parts_of

ROOMS: dict[str, str | tuple[str, ...]] = {
    "data": "preceptor.data",
    "model": "preceptor.models",
    "objective": "preceptor.teaching",
    "loss": ("preceptor.losses", "preceptor.losses.features"),
    "label_loss": "preceptor.teaching",
    "augmentation": "preceptor.data.augment",
    "mixing": "preceptor.data.mixing",
}


_ON_PYPI = ("timm", "torchvision")  # packages of models whose name there is that of the module


Trust = bool | Collection[str]
"""Which code may be imported because something that was read names it: any (True), none (False), or these names."""


def find(room: str, name: str, *, trust: Trust = False, source: str = "what was read") -> Callable[..., Any]:
    """The public function or class called `name` in a room, or an outsider's ``package.module:name``.

    Args:
        trust: which outsiders may be imported; True where the caller himself has given the name.
        source: what an error calls that which names it.

    Raises:
        InputError: nothing is called that (the nearest known name is offered), it cannot be imported, is not trusted,
            or is a class of another kind.
    """
    if ":" in name:
        _refuse_unasked(room, name, trust, source)
        return _outsider(room, name)
    known = _public(room)
    if name in known:
        return known[name]
    hint = did_you_mean(name, known)
    raise InputError(f"there is no {room} called '{name}'; {hint} Your own goes in as package.module:name.")


def names(room: str) -> list[str]:
    """The public names of a room that a recipe may use."""
    return list(_public(room))


def _public(room: str) -> dict[str, Any]:
    """What a recipe may name, by name."""
    places = ROOMS[room]
    modules = [importlib.import_module(place) for place in ([places] if isinstance(places, str) else places)]
    found = {name: getattr(module, name) for module in modules for name in _names(module)}
    return {name: thing for name, thing in found.items() if places != "preceptor.teaching" or _is_objective(thing)}


def _names(module: ModuleType) -> list[str]:
    """What a module lists as public; of a room of losses that look into models, these."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    base = vars(module)["FeatureLoss"]
    types = {name: thing for name, thing in vars(module).items() if isinstance(thing, type)}
    return [name for name, thing in types.items() if issubclass(thing, base) and thing is not base]


def _is_objective(found: Any) -> bool:
    """`teaching` also holds what is not minimised: averages of weights, post-hoc temperature."""
    function = getattr(found, "forward", None) if isinstance(found, type) else found
    return function is not None and {"labels", "mask"} <= options_of(function)[0]


def named_in(recipe: BaseModel) -> frozenset[str]:
    """The ``package.module:name`` that a recipe names: who gives it to a command trusts them.

    >>> from preceptor.recipe import TeachRecipe
    >>> sorted(named_in(TeachRecipe(model="mine:net", objective="mine:hinge", data="digits")))
    ['mine:hinge', 'mine:net']
    """
    return frozenset(component.name for component in _components(recipe) if ":" in component.name)


def _components(thing: Any) -> Iterator[Component]:
    match thing:
        case Component():
            yield from (part for part, _ in parts_of(thing))
        case BaseModel():
            yield from (component for _, value in thing for component in _components(value))
        case Mapping():
            yield from (component for value in thing.values() for component in _components(value))
        case list() | tuple():
            yield from (component for value in thing for component in _components(value))


def trusting(trust: Trust, recipe: BaseModel) -> Trust:
    """`trust`, and what a recipe that a command was given names itself."""
    return trust is True or named_in(recipe) | _trusted(trust)


def _trusted(trust: Trust) -> frozenset[str]:
    return frozenset([trust] if isinstance(trust, str) else trust or ())  # type: ignore[arg-type]


def _refuse_unasked(room: str, name: str, trust: Trust, source: str) -> None:
    """Refuse to import what a folder names and nobody else."""
    if trust is True or name in _trusted(trust):
        return
    given = (f"model='{name}'", f"model {name}") if "<" not in name else ("the function itself as model=", "model")
    remedies = {
        "model": (f"give {given[0]} (to distill: teacher_model) or trust=True", (given[1], "trust")),
        "data": ("give the data yourself, as data=, or trust=True", ("trust",)),
    }
    remedy, arguments = remedies.get(room, ("give trust=True", ("trust",)))
    raise InputError(
        f"{source} names code, the {room} '{name}', which is not imported unasked; {remedy} if you trust it",
        argument=arguments,
    )


def _outsider(room: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # a console script does not look into the folder it is called from
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of somebody's raises
        package = module_name.partition(".")[0]
        remedy = f"run pip install {package}" if package in _ON_PYPI else "run where it can, or install its package"
        cause = None if isinstance(error, ImportError | ValueError) else error
        raise InputError(f"the {room} '{name}' cannot be imported: {error}; {remedy}") from cause
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"the module '{module_name}' has no callable '{attribute}'; {did_you_mean(attribute, names)}")
    if isinstance(found, type):
        check_kind(room, name, found)
    return found


def refuse_made(model: Any, what: str = "the model") -> None:
    """Refuse a module where one is to be made; `what` is what an error calls it."""
    from torch import nn

    if isinstance(model, nn.Module):
        raise InputError(
            f"{what} is a {type(model).__name__} already made; give a function that makes one, so that its "
            "initial weights are drawn by the recipe's seed"
        )


def check_kind(room: str, name: str, found: Any) -> None:
    """Refuse what an outsider's name stands for, a class or what was made by it, if it is not what the room holds."""
    from torch import nn

    kind = found if isinstance(found, type) else type(found)
    held = {
        "model": (issubclass(kind, nn.Module), "a torch.nn.Module"),
        "objective": (issubclass(kind, Callable), "a function or a torch.nn.Module"),
        "loss": (issubclass(kind, Callable), "a function or a torch.nn.Module"),
        "label_loss": (issubclass(kind, Callable), "a function or a torch.nn.Module"),
        "augmentation": (hasattr(kind, "draw") and hasattr(kind, "apply"), "an object with methods draw and apply"),
        "mixing": (hasattr(kind, "draw") and hasattr(kind, "mix"), "an object with methods draw and mix"),
        "optimizer": (True, ""),
        "schedule": (True, ""),
        "training.select": (True, ""),
        "data": (True, ""),  # of many forms; whoever asked for them looks
    }
    fits, wanted = held[room]
    if not fits:
        raise InputError(
            f"the {room} '{name}' is a {kind.__name__}, not {wanted}; name one, or a function that makes one"
        )


def options_of(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """The keyword options that `function` takes, and whether it takes any keyword at all."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return set(), True
    keywords = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)


def required_of(function: Callable[..., Any]) -> set[str]:
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
            if (room, option) == ("loss", "weight"):  # which only a part of a sum has
                hint = f"give distill_weight={value}"
            raise InputError(f"unknown key '{room}.{option}' for the {room} '{component.name}'; {hint}")
        default = _default(function, option)
        if type(default) in (int, float) and isinstance(value, bool):
            raise InputError(f"'{room}.{option}' is {value}; give a number")
        # In YAML 1.2 'no' is text, and text is as good as true to a function that does not look.
        if isinstance(default, bool) and not isinstance(value, bool):
            raise InputError(f"'{room}.{option}' is {value!r}; give true or false")


def call(
    room: str,
    component: Component,
    supplied: Mapping[str, Any] | None = None,
    *,
    trust: Trust = False,
    source: str = "what was read",
) -> Any:
    """Call the named function with the recipe's options, and those of `supplied` that its signature takes.

    Raises:
        InputError: as `find`; no such option, the function refuses a value, or it makes something else.
    """
    function = find(room, component.name, trust=trust, source=source)
    if room == "model":
        refuse_made(function, f"the model '{component.name}'")
    supplied = dict(supplied or {})
    check_options(room, component, function, own=tuple(supplied))
    for option in sorted(required_of(function) - component.options.keys() - supplied.keys()):
        raise InputError(f"the {room} '{component.name}' needs '{option}'; give {room}.{option}=...")
    try:
        made = function(**component.options, **accepted(function, supplied))
    except InputError:
        raise
    except Exception as error:  # of somebody else's code, or of torch, to which a width is -3
        raise InputError(f"the {room} '{component.name}' refuses {component.options}: {error}") from error
    check_kind(room, component.name, made)
    return made
