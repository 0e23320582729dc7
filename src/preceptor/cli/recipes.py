"""The verb ``recipes``: those that ship with Preceptor, listed, shown and copied."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli.options import Json
from preceptor.cli.output import show_json, show_table
from preceptor.errors import InputError

recipes: typer.Typer = typer.Typer(help="The recipes that ship with Preceptor: list, show, copy.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a shipped recipe.")]


@recipes.callback(invoke_without_command=True)
def without_verb(context: typer.Context, as_json: Json = False) -> None:
    """The recipes that ship with Preceptor: their names and what they are for."""
    if context.invoked_subcommand is None:
        list_recipes(as_json)


@recipes.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List them, as recipes alone does: their names and what they are for."""
    from preceptor.recipe.text import shipped_recipes

    found = [(name, *_said(path)) for name, path in shipped_recipes().items()]
    if as_json:
        show_json({name: {"command": command, "about": about} for name, command, about in found})
        return
    from rich.table import Table

    table = Table("recipe", "about")
    for name, _, about in found:
        table.add_row(name, about)
    show_table(table, wrap=True)


@recipes.command("show")
def show(name: Name) -> None:
    """Print a recipe as it is written; teach RECIPE --dry-run spells out the defaults."""
    typer.echo(_path(name).read_text(encoding="utf-8").rstrip())


@recipes.command("copy")
def copy(
    name: Name,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The YAML file to write, or a folder to write it in.")],
) -> None:
    """Copy a recipe, to change it."""
    from preceptor.runs import files

    source = _path(name)
    place = path / source.name if path.is_dir() else path
    if place.suffix not in (".yaml", ".yml"):
        raise InputError(f"'{path}' is no folder and no name of a YAML file; give such as {name}.yaml")
    if place.exists():
        raise InputError(f"'{place}' is there already; give another path, or remove it")
    files.make_folder(place.parent)
    files.write_text(place, source.read_text(encoding="utf-8"))
    typer.echo(f"{place}: a copy of {name}", err=True)


def _path(name: str) -> Path:
    from preceptor.errors import did_you_mean
    from preceptor.recipe.text import shipped_recipes

    known = shipped_recipes()
    if name not in known:
        raise InputError(f"no recipe '{name}' ships with Preceptor; {did_you_mean(name, known)}")
    return known[name]


def _said(path: Path) -> tuple[str, str]:
    """The command that a recipe begins with, and the first sentence on what it is."""
    command, *about = _comment(path)
    return command, " ".join(about).partition(". ")[0].rstrip(".")


def _comment(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.lstrip("# ")
