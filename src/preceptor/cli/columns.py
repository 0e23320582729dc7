"""A table by column: shown, or written as CSV or Parquet."""

import csv
import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from preceptor.cli.output import show_table
from preceptor.errors import InputError

Columns = Mapping[str, Sequence[Any]]


def show_columns(columns: Columns, most: int) -> None:
    """The first rows, for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in columns:
        table.add_column(Text(name), justify="left" if name == "file" or name.startswith("class") else "right")
    for row in list(zip(*columns.values(), strict=True))[:most]:
        table.add_row(*(Text(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row))
    show_table(table, keep=2 if "file" in columns else 1)


def check_columns(out: str) -> None:
    """Refuse, before anything is computed, a table that could not be written.

    Raises:
        InputError: another kind of file, or pyarrow is missing.
    """
    if out == "-" or Path(out).suffix == ".csv":
        return
    if Path(out).suffix != ".parquet":
        raise InputError(f"--out is '{out}'; give a .csv or .parquet file, or - for CSV on standard output")
    try:
        importlib.import_module("pyarrow")
    except ImportError:
        raise InputError("Parquet needs pyarrow; run pip install 'preceptor[parquet]'") from None


def write_columns(columns: Columns, out: str) -> None:
    """A whole table: the file is whole or absent.

    Raises:
        InputError: as `check_columns`, or the file cannot be written.
    """
    check_columns(out)
    if out == "-":
        sys.stdout.write(_csv(columns))
        return
    from preceptor.runs import files

    path = Path(out)
    files.make_folder(path.parent)
    with files.atomic_path(path) as temporary:
        if path.suffix == ".csv":
            temporary.write_text(_csv(columns), encoding="utf-8", newline="")
        else:
            pyarrow: Any = importlib.import_module("pyarrow")
            table = pyarrow.table({name: list(values) for name, values in columns.items()})
            importlib.import_module("pyarrow.parquet").write_table(table, temporary)
    typer.echo(f"{path}: {len(next(iter(columns.values())))} rows", err=True)


def _csv(columns: Columns) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
