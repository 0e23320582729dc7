"""The verbs that train one model: ``teach`` and ``distill``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from preceptor.cli.options import (
    AllowCode,
    DataDir,
    DryRun,
    Folder,
    Json,
    Model,
    MoreEpochs,
    Overrides,
    RecipeName,
    factory,
    with_data_dir,
)
from preceptor.cli.output import score_table, show_json, show_recipe, show_table
from preceptor.errors import InputError
from preceptor.notices import say

if TYPE_CHECKING:
    from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe
    from preceptor.runs import Factory
    from preceptor.schema import Component

    R = TypeVar("R", bound=Recipe)


def teach(
    recipe: RecipeName,
    overrides: Overrides = None,
    folder: Folder = None,
    data_dir: DataDir = None,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="teaching: keep every epoch, and the one that teaches best beside the one that scores best.",
        ),
    ] = None,
    more_epochs: MoreEpochs = None,
    trust: AllowCode = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a teacher. Stopped or killed, the same command goes on where it was."""
    from preceptor.recipe import TeachRecipe, find_recipe, load

    if select not in (None, "teaching"):
        raise InputError(f"--select is '{select}'; give teaching (what 'best' means is training.select=brier)")
    # Before the user's own overrides, which come last and win.
    implied = ["training.keep=all", "training.select=accuracy"] if select else []
    assignments = implied + with_data_dir(overrides, data_dir)
    if more_epochs is None:
        path = find_recipe(recipe)
        loaded = load(TeachRecipe, path, assignments)
    else:
        path, loaded = _longer(TeachRecipe, recipe, more_epochs, assignments, trust=trust)
    if select:
        _check_choice(loaded)
    if dry_run:
        _check("objective", loaded.objective)
        show_recipe(loaded)
        return
    from preceptor import training

    folder = folder or Path("runs") / path.stem
    result = training.teach(loaded, folder, progress=True)
    if select:
        from preceptor.names import named_in
        from preceptor.study.teachers import keep_teaching

        result = keep_teaching(folder, trust=named_in(loaded), progress=True)
        say(f"teaches best: {result['teaching']['choice']['single']}, now in teaching.safetensors")
    _show(result, folder, as_json)


def distill(
    recipe: RecipeName,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]... [RUN]...", help="e.g. optimizer.lr=0.1; runs after --teacher auto."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="A teacher as assess names them (RUN, RUN:best, FILE.parquet, A:0.7+B:0.3...), or auto: chosen among "
            "the RUNs that follow.",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="The teacher's file holds probabilities.")
    ] = False,
    folder: Folder = None,
    data_dir: DataDir = None,
    model: Model = None,
    trust: AllowCode = False,
    more_epochs: MoreEpochs = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a student from a teacher. Stopped or killed, the same command goes on where it was.

    With --teacher auto the held-out labels choose: checkpoint or mixture, and what to do to its output.
    """
    from preceptor.recipe import DistillRecipe, find_recipe, load

    names = [argument for argument in arguments or [] if _is_run(argument)]
    assignments = with_data_dir([a for a in arguments or [] if not _is_run(a)], data_dir)
    if names and teacher != "auto":
        raise InputError(f"'{names[0]}' is no KEY=VALUE; write runs to choose from after --teacher auto")
    if teacher == "auto":
        _refuse_two_teachers(assignments)
    elif teacher:
        assignments.append(teacher_override(teacher))
    if probabilities:
        assignments.append("probabilities=true")
    if more_epochs is None:
        path = find_recipe(recipe)
        loaded = load(DistillRecipe, path, assignments)
    else:
        path, loaded = _longer(DistillRecipe, recipe, more_epochs, assignments, trust=trust)
    maker, choice = factory(model), None
    if teacher == "auto":
        shown = {"show": dry_run or not as_json, "to_stderr": dry_run}
        loaded, choice = _choose(loaded, names, **shown, data_dir=data_dir, model=maker, trust=trust)
    if dry_run:
        _check("loss", loaded.loss)
        _check("label_loss", loaded.label_loss)
        show_recipe(loaded)
        return
    from preceptor import training

    folder = folder or Path("runs") / path.stem
    result = training.distill(loaded, folder, teacher_model=maker, trust=trust, choice=choice, progress=True)
    _show(result, folder, as_json)


def _check(room: str, component: "Component | None") -> None:
    """Refuse what the run would refuse of its criterion before it reads any data."""
    from preceptor.training.objects.criteria import check_criterion

    check_criterion(room, component)


def _longer(kind: "type[R]", run: str, epochs: int, assignments: list[str], *, trust: bool) -> "tuple[Path, R]":
    """The recipe of a finished run for more epochs, and where the new run goes if nobody says so."""
    from preceptor.training.loop.parent import longer

    recipe = longer(kind, run, epochs, assignments=assignments, trust=trust)
    return Path(f"{Path(run).name}-{recipe.training.epochs}.yaml"), recipe


def _is_run(argument: str) -> bool:
    """Whether an argument is no KEY=VALUE: a path, which may hold a sign of equality, perhaps with selectors."""
    starts = (argument[: found.start()] for found in re.finditer(r"[:+]|$", argument))
    return "=" not in argument or any(Path(start).exists() for start in starts if start)


def _show(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        show_json(result)
    else:
        show_table(score_table(result, folder), keep=2)


def _check_choice(recipe: "TeachRecipe") -> None:
    """Refuse, before anything is trained, a run that would leave ``--select teaching`` without a choice."""
    kept = recipe.training.kept_epochs
    if len(kept) < 2:
        raise InputError(
            f"--select teaching chooses among the epochs that a run has kept, and this one would keep {len(kept)} "
            f"(training.keep={recipe.training.keep}, training.epochs={recipe.training.epochs}); train for two epochs "
            "or more, and leave training.keep and training.checkpoint_epochs out"
        )


def _refuse_two_teachers(assignments: list[str]) -> None:
    named = [assignment for assignment in assignments if assignment.startswith("teacher")]
    if named:
        raise InputError(f"'{named[0]}' names a teacher and --teacher auto chooses one; leave one of the two out")


def _choose(
    recipe: "DistillRecipe",
    names: list[str],
    *,
    show: bool,
    to_stderr: bool,
    data_dir: Path | None,
    model: "Factory | None",
    trust: bool,
) -> "tuple[DistillRecipe, dict[str, Any]]":
    """The recipe with the teacher that the held-out labels choose, and the choice, which is shown."""
    from preceptor.study.teachers import choose_teacher

    resolved, choice = choose_teacher(recipe, names, data_dir=data_dir, model=model, trust=trust, progress=True)
    if show:
        show_table(choice.table(), to_stderr=to_stderr)
    return resolved, choice.to_dict()


def teacher_override(name: str) -> str:
    """``teacher=`` for a run folder, or for what `assess` calls so: checkpoints of runs, ensembles."""
    import json

    from preceptor.recipe import text_override

    plain = Path(name).is_dir() or not (":" in name or "+" in name)
    if plain and not (Path(name) / "members.json").is_file():  # of a posterior's samples all teach together
        return text_override("teacher", name)
    from preceptor.runs.references import teacher_references

    references = [reference.model_dump(mode="json") for reference in teacher_references(name)]
    return f"teacher={json.dumps(references, ensure_ascii=False)}"
