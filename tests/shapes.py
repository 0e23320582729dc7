"""Annotations are held to in tests: shapes, dtypes and types of arguments and results, of all functions of a package.

A call is judged once it has returned: what a function refuses with a sentence of its own was never said to fit. So a
wrong annotation and a wrong result are both found, and bad input can be tested as ever. Compiled code is let be.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import jaxtyped

ANY_NUMBER = BeartypeConf(is_pep484_tower=True)  # an int is as good as a float
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose calls raise AssertionError where its annotations do not tell the truth."""
    parameters, hints = inspect.signature(function).parameters, hints_of(function)
    positional = [name for name, each in parameters.items() if each.kind in POSITIONAL]
    told_of = {name: hint for name, hint in hints.items() if name == "return" or parameters[name].kind not in VARIABLE}

    def check(args: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        given = {**dict(zip(positional, args, strict=False)), **options, "return": result}
        with jaxtyped("context"):  # one name, one length
            for name, hint in told_of.items():
                if name in given and not is_bearable(given[name], hint, conf=ANY_NUMBER):
                    raise AssertionError(f"{function.__qualname__}: '{name}' is {told(given[name])}, not {hint}")

    compiling = torch.compiler.is_compiling

    def call(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        if not compiling():
            check(args, options, result)
        return result

    # With the globals of the function's own module, by which doctest knows whose examples it reads, and code of its
    # own, by which the compiler counts how often it has compiled it.
    code = call.__code__.replace(co_name=function.__name__)
    wrapped = types.FunctionType(code, function.__globals__, closure=call.__closure__)
    return functools.update_wrapper(wrapped, function)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Its annotations, but for those that only a type checker can read: names that it alone imports, and ArrayLike."""
    hints = function.__annotations__
    with contextlib.suppress(NameError):
        hints = get_type_hints(function, include_extras=True)
    return {n: hint for n, hint in hints.items() if not isinstance(hint, str) and "_NestedSequence" not in str(hint)}


def told(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)


def check_packages(*packages: str) -> None:
    """Put every function and method of the packages behind `checked`, in each module that has imported it."""
    modules = [module for package in packages for module in modules_of(importlib.import_module(package))]
    found = {}
    for module in modules:
        for owner, name, function in functions_of(module):
            found[function] = checked(function)
            setattr(owner, name, found[function])
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if module.__name__.startswith("preceptor") else ():
            if inspect.isfunction(value) and value in found:
                setattr(module, name, found[value])


def modules_of(package: types.ModuleType) -> Iterator[types.ModuleType]:
    yield package
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        yield importlib.import_module(found.name)


def functions_of(module: types.ModuleType) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """The functions that are defined in a module, and the methods of its classes.

    A decorated function is left out: it need not return what it is annotated with, as with `contextmanager`.
    """
    classes = [found for found in vars(module).values() if inspect.isclass(found) and is_own(found, module)]
    for owner in (module, *classes):
        for name, value in list(vars(owner).items()):
            if inspect.isfunction(value) and is_own(value, module) and not hasattr(value, "__wrapped__"):
                yield owner, name, value


def is_own(found: Any, module: types.ModuleType) -> bool:
    return found.__module__ == module.__name__
