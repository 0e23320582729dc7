"""Somebody's own functions that look on while a run trains, and may stop it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preceptor.errors import InputError, did_you_mean

METHODS = {"on_step_end": "(step, steps)", "on_epoch_end": "(epoch, scores)"}


class CallbackFailed(InputError):
    """A callback has raised an error; the run itself is as it was."""


def check_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """Callbacks as a tuple.

    Raises:
        InputError: no list of objects with one of the methods that are called.
    """
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise InputError(
            f"callbacks is a {type(callbacks).__name__}; give a list of objects with the method on_epoch_end(epoch, "
            "scores) or on_step_end(step, steps)",
            argument="callbacks",
        )
    for each in callbacks:
        if isinstance(each, type):
            raise InputError(
                f"the callback is the class {each.__name__}; give one that is made: {each.__name__}(...)",
                argument="callbacks",
            )
        if not any(callable(getattr(each, method, None)) for method in METHODS):
            meant = [name for name in dir(each) if name.startswith("on_")]
            hint = did_you_mean(meant[0], METHODS) if meant else "give one with on_epoch_end(epoch, scores)"
            raise InputError(
                f"the callback {type(each).__name__} has neither on_step_end nor on_epoch_end; {hint}",
                argument="callbacks",
            )
    return tuple(callbacks)


def calls(callbacks: Sequence[Any], method: str) -> list[Callable[..., Any]]:
    """What of some callbacks is called at that moment."""
    return [functools.partial(_call, each, method) for each in callbacks if callable(getattr(each, method, None))]


def _call(callback: Any, method: str, number: int, more: int | Mapping[str, Any]) -> bool:
    """Whether the callback wants to stop.

    Raises:
        CallbackFailed: it has raised an error.
    """
    try:
        said = getattr(callback, method)(number, more)
    except Exception as error:  # of somebody else's code
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CallbackFailed(
            f"the callback {type(callback).__name__}.{method}{METHODS[method]} failed at {number}: {what}"
        ) from error
    return said is True or said == "stop"
