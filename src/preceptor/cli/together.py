"""The verbs that train several models side by side: ``distill-together`` and ``teach-together``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from preceptor.cli.options import AllowCode, DataDir, Folder, Json, Model, Overrides, RecipeName, factory, with_data_dir
from preceptor.cli.output import score_table, show_json, show_table
from preceptor.cli.run import teacher_override
from preceptor.errors import InputError


def distill_together(
    recipe: RecipeName,
    students: Annotated[
        Path, typer.Argument(metavar="STUDENTS", help="A YAML file, NAME: {KEY: VALUE...} for each student.")
    ],
    overrides: Overrides = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="A teacher as assess names them (RUN, RUN:best, A+B...), for all.")
    ] = None,
    folder: Folder = None,
    data_dir: DataDir = None,
    model: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Train several students of one teacher side by side, each in OUT/NAME: the teacher is asked once for all.

    Each becomes what distill would make of it alone. Stopped or killed, the same command goes on where it was.
    """
    from preceptor.recipe import DistillRecipe, find_recipe, load
    from preceptor.recipe.text import read_yaml

    assignments = with_data_dir(overrides, data_dir)
    if teacher == "auto":
        raise InputError(
            "--teacher auto chooses for one student; let distill choose, and give the teacher that it says"
        )
    if teacher:
        assignments.append(teacher_override(teacher))
    path = find_recipe(recipe)
    loaded, company = load(DistillRecipe, path, assignments), read_yaml(students)
    from preceptor import training

    folder = folder or Path("runs") / path.stem
    results = training.distill_together(
        loaded, company, folder, teacher_model=factory(model), trust=trust, progress=True
    )
    _show(results, folder, as_json)


def teach_together(
    recipe: RecipeName,
    models: Annotated[
        Path, typer.Argument(metavar="MODELS", help="A YAML file, NAME: {KEY: VALUE...} for each model.")
    ],
    overrides: Overrides = None,
    weight: Annotated[float, typer.Option("--weight", help="Of the divergence from the others.")] = 1.0,
    temperature: Annotated[float, typer.Option("--temperature", help="By which logits are divided for it.")] = 1.0,
    folder: Folder = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Train models that teach each other, each in OUT/NAME: deep mutual learning.

    Stopped or killed, the same command goes on where all of them were.
    """
    from preceptor.recipe import TeachRecipe, find_recipe, load
    from preceptor.recipe.text import read_yaml

    path = find_recipe(recipe)
    loaded, company = load(TeachRecipe, path, with_data_dir(overrides, data_dir)), read_yaml(models)
    from preceptor import training

    folder = folder or Path("runs") / path.stem
    results = training.teach_together(loaded, company, folder, weight=weight, temperature=temperature, progress=True)
    _show(results, folder, as_json)


def _show(results: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        show_json(results)
        return
    for name, result in results.items():
        show_table(score_table(result, folder / name), keep=2)
