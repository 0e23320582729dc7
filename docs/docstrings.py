"""Docstrings as the site's Markdown: examples are code, and ``one, other: text`` is an argument each; for griffe."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)(>>> .*?)(?=\n\s*\n|\s*\Z)", re.DOTALL | re.MULTILINE)
SEVERAL = re.compile(r"^( +)((?:\w+, )+\w+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class Docstrings(Extension):
    """Changes each docstring as it is found."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """A module, class, function or attribute."""
        if obj.docstring:
            text = EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", obj.docstring.value)
            obj.docstring.value = SEVERAL.sub(_each, text)


def _each(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
