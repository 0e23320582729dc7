"""The one exception a user should ever meet: a sentence that names the thing, the value and the remedy."""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something the user handed over is wrong; the message is one sentence, meant to be read as it stands.

    `argument` is the Python argument that the remedy is about (``folder``, ``teacher``, ...), with a value behind it
    where there is only one to give (``model mine:net``); or several, any of which would do. A message never names a
    flag: the command line, which knows its own, adds it.
    """

    def __init__(self, message: str, *, argument: str | tuple[str, ...] | None = None) -> None:
        super().__init__(message)
        self.argument = argument


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A tail for an error sentence: the nearest known name, or all of them where none is near.

    >>> did_you_mean("temprature", ["temperature", "alpha"])
    "did you mean 'temperature'?"
    >>> did_you_mean("crd", ["CRD", "dkd"])
    "did you mean 'CRD'?"
    >>> did_you_mean("x", ["temperature", "alpha"])
    'known: alpha, temperature.'
    """
    names = sorted(known)
    if not names:
        return "it takes none."
    same = [each for each in names if each.lower() == str(name).lower()]
    near = same or difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether a value is one real number: of Python, NumPy or torch; no bool, no text, and not several.

    >>> is_number(0.5), is_number("0.5"), is_number(True), is_number(2.0, whole=True), is_number(0.5, whole=True)
    (True, False, False, True, False)
    """
    if value is None or isinstance(value, bool | str | bytes):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
    return not whole or number.is_integer()
