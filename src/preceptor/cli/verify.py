"""The verb ``verify``."""

from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli.options import Json
from preceptor.cli.output import show_json


def verify(
    folder: Annotated[Path, typer.Argument(help="A run, a study, a record, or a folder in which some lie.")],
    as_json: Json = False,
) -> None:
    """Check every file of a run, a study or a record against its SHA-256; exit code 1 where one is not what it was."""
    from dataclasses import asdict

    from preceptor.runs.verify import verify as check

    found = check(folder)
    if as_json:
        show_json(asdict(found))
    else:
        for problem in found.problems:
            typer.echo(f"damaged: {problem}")
        for text in found.unchecked:
            typer.echo(f"unchecked: {text}")
        typer.echo(f"{found.num_files} files are what they were, {len(found.problems)} are not")
    if found.problems:
        raise typer.Exit(1)
