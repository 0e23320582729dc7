"""What a verb prints: tables for people, JSON for programs, notes on stderr."""

import sys
from typing import Any

import typer

from preceptor.notices import say


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


def show_table(table: Any, *, to_stderr: bool = False, wrap: bool = False) -> None:
    """A table, as wide as the terminal; piped into a file there is no width to ask for: as wide as it needs to be.

    Args:
        table: of rich.
        to_stderr: print it there.
        wrap: its cells are sentences, which may go on on the next line.
    """
    from rich.console import Console

    console = Console(stderr=to_stderr, markup=False, emoji=False)  # a path may hold brackets
    width = console.width if console.is_terminal else max(120, _width(table))
    left_out = [] if wrap else _narrowed(table, width)
    Console(width=width, stderr=to_stderr, markup=False, emoji=False).print(table)
    if left_out:
        say(f"note: too narrow for {', '.join(left_out)}; widen the window, or use --json")


def score_table(result: dict[str, Any], folder: Any) -> Any:
    """A run's scores, a row for each of its weights on each part; above them a student's teacher."""
    from rich.table import Table

    table = Table(
        title=f"{result['verb']}: {folder}", caption="Brier score and NLL: lower is better", title_justify="left"
    )
    for column in ("weights", "part", "accuracy", "Brier", "NLL", "calibration error"):
        table.add_column(column, justify="left" if column in ("weights", "part") else "right")
    teacher = result.get("teacher")
    rows = [("teacher", teacher["part"], teacher)] if teacher else []
    rows += [
        (weights, part, scores) for part in ("heldout", "test") for weights, scores in (result[part] or {}).items()
    ]
    for weights, part, scores in rows:
        values = [scores[key] for key in ("accuracy", "brier", "nll", "calibration_error")]
        table.add_row(weights, part, *("–" if v is None else f"{v:.4f}" for v in values))
    return table


def _width(value: Any) -> int:
    """Columns of a terminal that a table needs to show every cell on one line."""
    from rich.console import Console

    wide = Console(width=10_000, markup=False, emoji=False)
    return wide.measure(value).maximum


def _narrowed(table: Any, width: int) -> list[str]:
    """Take columns from the right of a table until it fits, as a number cut short would read as another one."""
    left_out: list[str] = []
    while len(table.columns) > 3 and _width(table) > width:
        left_out.insert(0, str(table.columns.pop().header))
    return left_out
