"""Arguments and options that several verbs take, and what they do to a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preceptor.runs import Factory


def _recipes(incomplete: str) -> list[str]:
    """What the shell offers for a recipe: names, and files and folders that begin so."""
    from glob import escape, glob

    from preceptor.recipe.text import shipped_recipes

    places = [f"{path}/" if Path(path).is_dir() else path for path in glob(f"{escape(incomplete)}*")]
    files = [place for place in places if place.endswith((".yaml", ".yml", "/"))]
    return [*(name for name in shipped_recipes() if name.startswith(incomplete)), *files]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or the name of a shipped recipe (recipes).", autocompletion=_recipes
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. optimizer.lr=0.1")]
Folder = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write; default: runs/<recipe's name>.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the data set's files are.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:NAME",
        help="Makes the model of runs that were trained with one of yours.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import the code that runs name as their model or data set, and run it.",
    ),
]
MoreEpochs = Annotated[
    int | None,
    typer.Option(
        "--more-epochs",
        metavar="N",
        help="Go on for N epochs from the end of a finished run, whose folder stands for the recipe, in a new run.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def with_data_dir(overrides: list[str] | None, data_dir: Path | None, *parts: str) -> list[str]:
    """``--data-dir`` for a recipe, or for each of the recipes that are `parts` of a study, before the overrides."""
    from preceptor.recipe import text_override

    keys = [f"{part}.data.data_dir" for part in parts] or ["data.data_dir"]
    return [*(text_override(key, data_dir) for key in keys if data_dir), *(overrides or [])]


def factory(model: str | None) -> "Factory | None":
    """What ``--model`` names."""
    if model is None:
        return None
    from preceptor.names import find

    return find("model", model, trust=True)
