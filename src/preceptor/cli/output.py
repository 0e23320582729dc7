"""What a verb prints: tables for people, JSON for programs, notes on stderr."""

import copy
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import typer

_HEADER, _NAME, _BORDER = 22, 12, 4  # what a header and a name may take of a line; what is drawn round a column


def command() -> str:
    """The command as somebody would type it again."""
    import shlex

    return shlex.join(["preceptor", *sys.argv[1:]])


def show_json(value: dict[str, Any]) -> None:
    """One JSON object."""
    import json

    typer.echo(json.dumps(value, indent=1))


def show_recipe(recipe: Any) -> None:
    """A resolved recipe as the YAML that could be given instead."""
    from preceptor.recipe import dump

    typer.echo(dump(recipe).rstrip())


def show_table(table: Any, *, to_stderr: bool = False, keep: int = 1, wrap: bool = False) -> None:
    """A table, as wide as the terminal (or as COLUMNS says): columns that do not fit follow below, in a table with the
    same names. Piped into a file there is no width to ask for: as wide as it needs to be, a line for each row.

    Args:
        table: of rich.
        to_stderr: print it there.
        keep: so many columns name a row, and begin each part.
        wrap: its cells are sentences, which may go on on the next line.
    """
    from rich.console import Console

    console = Console(stderr=to_stderr, markup=False, emoji=False)  # a path may hold brackets
    limited = console.is_terminal or "COLUMNS" in os.environ
    if wrap or not limited:
        parts, width = [table], console.width if limited else max(120, _width(table))
    else:
        parts, width = _parts(table, console.width, keep)
    for part in parts:
        Console(width=width, stderr=to_stderr, markup=False, emoji=False).print(part)


_OF_CLASSES: dict[str, Any] = {
    "scores": {"accuracy": "accuracy", "Brier": "brier", "NLL": "nll", "calibration error": "calibration_error"},
    "caption": "Brier score and NLL: lower is better",
}
_OF_TOKENS: dict[str, Any] = {
    "scores": {"NLL": "nll", "bits per byte": "bits_per_byte"} | _OF_CLASSES["scores"],
    "caption": "NLL in nats a token, bits per byte, Brier score: lower is better",
}


def score_table(result: dict[str, Any], folder: Any) -> Any:
    """A run's scores, a row for each of its weights on each part; above them a student's teacher."""
    from rich.table import Table

    left: Any = {"title_justify": "left", "caption_justify": "left"}
    columns = _OF_TOKENS if "bits_per_byte" in next(iter(result["heldout"].values())) else _OF_CLASSES
    table = Table(title=f"{result['verb']}: {folder}", caption=columns["caption"], **left)
    for column in ("weights", "part", *columns["scores"]):
        table.add_column(column, justify="left" if column in ("weights", "part") else "right")
    teacher = result.get("teacher")
    rows = [("teacher", teacher["part"], teacher)] if teacher else []
    rows += [
        (weights, part, scores) for part in ("heldout", "test") for weights, scores in (result[part] or {}).items()
    ]
    for weights, part, scores in rows:
        values = [scores[key] for key in columns["scores"].values()]
        table.add_row(weights, part, *("–" if v is None else f"{v:.4f}" for v in values))
    return table


def _width(value: Any) -> int:
    """Columns of a terminal that a table needs to show every cell on one line."""
    from rich.console import Console

    wide = Console(width=10_000, markup=False, emoji=False)
    return wide.measure(value).maximum


def _parts(table: Any, width: int, keep: int) -> tuple[list[Any], int]:
    """A table in parts that fit, and the width that the widest needs: no number is cut, as it would read as another."""
    for column in table.columns[keep:]:
        column.header = textwrap.fill(
            str(column.header), max(_HEADER, max(map(len, map(str, column.cells)), default=0))
        )
        column.min_width, column.no_wrap = _width(_only(table, [column])) - _BORDER, True
    kept = table.columns[:keep]
    widest = max(table.columns[keep:], key=lambda column: column.min_width or 0, default=None)
    for column in kept:
        if column.overflow == "fold":  # a name may go on on the next line
            others = [each for each in kept if each is not column] + [widest] * (widest is not None)
            column.max_width = max(_NAME, width - _width(_only(table, others)) - _BORDER + 1)
    parts: list[list[Any]] = [[]]
    for column in table.columns[keep:]:
        if parts[-1] and _width(_only(table, [*table.columns[:keep], *parts[-1], column])) > width:
            parts.append([])
        parts[-1].append(column)
    found = [_only(table, [*table.columns[:keep], *part]) for part in parts]
    for part in found[1:]:
        part.title = None
    for part in found[:-1]:
        part.caption = None
    return found, max(width, *map(_width, found))


def _only(table: Any, columns: Sequence[Any]) -> Any:
    """A table of some of the columns."""
    part = copy.copy(table)
    part.columns = [copy.copy(column) for column in columns]
    for place, column in enumerate(part.columns):
        column._index = place
    return part
