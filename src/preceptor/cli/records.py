"""The verbs ``record info`` and ``record verify``, beside ``record TEACHER``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from preceptor.cli.options import Json
from preceptor.cli.output import show_json

Folder = Annotated[
    Path, typer.Argument(help="A record: a folder that `preceptor record` or a RecordWriter has written.")
]
DEFAULT = "teacher"
"""The verb that ``record`` is where none is named."""


class RecordVerbs(TyperGroup):
    """Its first argument is a verb of its own, or else belongs to `DEFAULT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments after ``record``: a run, too, may be called as `DEFAULT` is."""
        named = bool(args) and args[0] in self.commands and args[0] != DEFAULT
        return super().parse_args(ctx, args if named or DEFAULT not in self.commands else [DEFAULT, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The verb, without a name where it is `DEFAULT`, so that help and errors spell it as it is typed."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == DEFAULT else name, command, rest


record_app: typer.Typer = typer.Typer(
    cls=RecordVerbs,
    help="Keep a teacher's outputs on disk: record TEACHER, record info DIR, record verify DIR. "
    "What record TEACHER takes: record teacher --help.",
)


@record_app.command("info")
def info(folder: Folder, as_json: Json = False) -> None:
    """Say what a record holds: of whom, for which samples, in which form, how exact, and what its teacher is worth."""
    from preceptor.records.info import describe

    found = describe(folder)
    if as_json:
        show_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{name:<{width}}  {text}")


@record_app.command("verify")
def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every file of a record against its SHA-256, and that no sample is missing; exit code 1 where one is."""
    from preceptor.records import Record

    record = Record(folder, check=False)
    problems = record.verify()
    if as_json:
        show_json({"num_samples": len(record), "problems": list(problems)})
    else:
        for problem in problems:
            typer.echo(f"damaged: {problem}")
        typer.echo(f"{len(record)} samples of {record.views} view(s), {len(problems)} problem(s)")
    if problems:
        raise typer.Exit(1)
