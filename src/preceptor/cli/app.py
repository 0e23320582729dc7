"""The verbs on the command line. Nothing heavy is imported before a verb runs: ``preceptor --help`` is instant."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from preceptor import __version__
from preceptor.errors import InputError

if TYPE_CHECKING:
    from preceptor.recipe import Recipe


_SAVING = ("teach", "distill", "generations", "study", "quickstart")


class Verbs(TyperGroup):
    """What a user did wrong is one sentence and exit code 2; Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            saved = " and saved; the same command goes on (quickstart: with --resume FOLDER)"
            typer.echo(f"stopped{saved if ctx.invoked_subcommand in _SAVING else ''}", err=True)
            raise typer.Exit(130) from None


app: typer.Typer = typer.Typer(
    name="preceptor",
    cls=Verbs,
    help="Teach, assess, distill: knowledge distillation whose teachers are measured and chosen for their students.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. optimizer.lr=0.1")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write; default: runs/<recipe's name>.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the data set's files are.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def teach(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    data_dir: DataDir = None,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="teaching: keep every epoch, and the one that teaches best beside the one that scores best.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a teacher. Stopped or killed, the same command goes on where it was."""
    from preceptor.recipe import TeachRecipe

    if select not in (None, "teaching"):
        raise InputError(f"--select is '{select}'; give teaching (what 'best' means is training.select=brier)")
    # Before the user's own overrides, which come last and win.
    implied = ["training.keep=all", "training.select=accuracy"] if select else []
    assignments = implied + _with_data_dir(overrides, data_dir)
    _train(TeachRecipe, recipe, assignments, out, dry_run, as_json, teaching=select is not None)


@app.command()
def distill(
    recipe: RecipeArgument,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]... [RUN]...", help="e.g. optimizer.lr=0.1; runs after --teacher auto."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="A teacher as assess names them (RUN, RUN:best, A+B...), or auto: chosen among the RUNs that follow.",
        ),
    ] = None,
    out: Out = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a student from a teacher. Stopped or killed, the same command goes on where it was.

    With --teacher auto the held-out labels choose: checkpoint or mixture, and what to do to its output.
    """
    from preceptor.recipe import DistillRecipe

    names = [argument for argument in arguments or [] if "=" not in argument]
    assignments = _with_data_dir([a for a in arguments or [] if "=" in a], data_dir)
    if names and teacher != "auto":
        raise InputError(f"'{names[0]}' is no KEY=VALUE; write runs to choose from after --teacher auto")
    if teacher == "auto":
        _distill_auto(recipe, assignments, names, data_dir, out, dry_run, as_json)
        return
    assignments += [_teacher_override(teacher)] if teacher else []
    _train(DistillRecipe, recipe, assignments, out, dry_run, as_json)


@app.command()
def assess(
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE...",
            help="RUN, RUN:best, RUN:epoch-4, RUN:epochs (all that it kept), RUN:member-2 (of a stack); .npz, .npy or "
            ".parquet files of logits; A+B for the ensemble of both.",
        ),
    ],
    losses: Annotated[
        list[str] | None,
        typer.Option("--loss", help="kd, dkd, ttm, wttm, ptloss: score what it makes of a teacher, a ranking each."),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the losses that have one.")] = None,
    coefficients: Annotated[
        str | None, typer.Option("--coefficients", help="Of ptloss: 0.5,0.1 or a .npy file of (M,) or (C, M).")
    ] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="A .npy file of labels.")] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            "--counts",
            help="A .npy file: how many people chose each class, (N, C); for runs, of held-out or of all samples.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="A .npy file: the true label distribution, (N, C), where it is known; as with --counts."
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option("--data", help="An .npz or .parquet file of labels, counts, truth and ids, for files."),
    ] = None,
    data_dir: DataDir = None,
    transfer: Annotated[
        bool | None,
        typer.Option(
            "--transfer/--no-transfer",
            help="Score runs on the samples that students learn from, too; default: where model and data are found.",
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            help="What ranks: brier (students' distance to the truth) or brier_recalibrated (students' accuracy).",
        ),
    ] = "brier",
    level: Annotated[float, typer.Option("--level", help="Of the simultaneous intervals.")] = 0.95,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="The files hold probabilities.")] = False,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page with pictures.")] = None,
    as_json: Json = False,
) -> None:
    """Rank teachers by what they are worth to a student, from held-out labels alone.

    The held-out score predicts the student, where its labels served nothing else.
    Shown beside it, on a teacher's own training samples, is one that is too good.
    """
    from preceptor.study.teachers import assess_files

    assessment = assess_files(
        candidates,
        losses=losses or ["kd"],
        temperature=temperature,
        coefficients=coefficients,
        labels=labels,
        counts=counts,
        truth=truth,
        samples=samples,
        data_dir=data_dir,
        transfer=transfer,
        criterion=criterion,
        level=level,
        probabilities=probabilities,
        progress=True,
    )
    if page:
        from preceptor.study.teachers.page import write_page

        _say(f"page: {write_page(assessment, page, command=_command())}")
    if as_json:
        _print(assessment.to_dict())
        return
    for ranking in assessment.rankings:
        _print(ranking.table())
    for note in assessment.remarks:
        _say(f"note: {note}")


@app.command()
def generations(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a chain: generation 0 under an objective, then each student teaches the next."""
    from preceptor.recipe import dump, find_recipe, load
    from preceptor.study.generations import run_generations, table
    from preceptor.study.recipe import Generations

    loaded = load(Generations, find_recipe(recipe), _with_data_dir(overrides, data_dir, ("teach.", "distill.")))
    if dry_run:
        _print(dump(loaded), plain=True)
        return
    result = run_generations(loaded, out or Path("runs") / loaded.name, command=_command(), progress=True, say=_say)
    _print(result if as_json else table(result))


@app.command()
def study(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a grid: teachers x losses x seeds, with a table and a report. Stopped, the same command goes on."""
    from preceptor.recipe import dump, find_recipe, load
    from preceptor.study.recipe import Study

    loaded = load(Study, find_recipe(recipe), _with_data_dir(overrides, data_dir, ("teach.", "distill.", "baseline.")))
    if dry_run:
        _print(dump(loaded), plain=True)
        return
    _run_study(loaded, out or Path("runs") / loaded.name, as_json)


@app.command()
def quickstart(
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: ./quickstart-<time>.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with an interrupted quickstart.")] = None,
    as_json: Json = False,
) -> None:
    """The whole story on handwritten digits, in about a minute: teach, assess, distill, report."""
    import time

    from preceptor.recipe import find_recipe, load
    from preceptor.study.recipe import Study

    if resume and not resume.is_dir():
        raise InputError(f"there is no quickstart to resume at '{resume}'; give the folder that it printed")
    if out and out.exists() and not resume:
        raise InputError(f"'{out}' exists already; go on with it by --resume {out}, or give a new folder")
    folder = resume or out or Path(f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}")
    loaded = load(Study, find_recipe("quickstart"), overrides or [])
    _say(f"folder: {folder} (interrupted, it goes on with --resume {folder})")
    _run_study(loaded, folder, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder that quickstart, study or generations wrote.")],
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as GitHub markdown.")] = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw a study's pictures into a PNG.")] = None,
) -> None:
    """Print the table again, and write a study's report anew, without training anything."""
    from preceptor.runs.files import read_json

    if (folder / "generations.json").is_file():
        from preceptor.study import generations

        if picture:
            raise InputError("generations have no pictures; leave --picture out")
        result = read_json(folder / "generations.json")
        generations.check(result)
        if markdown:
            typer.echo(generations.markdown(result))
        else:
            _print(result if as_json else generations.table(result))
        return
    if not (folder / "study.json").is_file():
        raise InputError(
            f"'{folder}' holds no study.json or generations.json; give a folder that a finished quickstart, study or "
            "generations wrote"
        )
    from preceptor.study.grid import report as reports

    result = read_json(folder / "study.json")
    if picture:
        _say(f"picture: {reports.write_picture(result, picture)}")
    if markdown:
        typer.echo(reports.markdown(result))
    else:
        _report(result, folder, as_json)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(f"preceptor {__version__}")
        raise typer.Exit


# -- parts ------------------------------------------------------------------------------------------------------------


def _train(
    kind: "type[Recipe]",
    recipe: str,
    assignments: list[str],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    *,
    teaching: bool = False,
) -> None:
    from preceptor.recipe import DistillRecipe, TeachRecipe, dump, find_recipe, load

    path = find_recipe(recipe)
    loaded = load(kind, path, assignments)
    if teaching:
        _check_choice(loaded)
    if dry_run:
        _print(dump(loaded), plain=True)
        return
    from preceptor import training

    folder = out or Path("runs") / path.stem
    if isinstance(loaded, TeachRecipe):
        result = training.teach(loaded, folder, progress=True)
        if teaching:
            from preceptor.study.teachers import keep_teaching

            result = keep_teaching(folder, progress=True)
            _say(f"teaches best: {result['teaching']['choice']['single']}, now in teaching.safetensors")
    else:
        assert isinstance(loaded, DistillRecipe)
        result = training.distill(loaded, folder, progress=True)
    _print(result if as_json else _score_table(result, folder))


def _check_choice(recipe: "Recipe") -> None:
    """Refuse, before anything is trained, a run that would leave ``--select teaching`` without a choice."""
    kept = recipe.training.kept_epochs
    if len(kept) < 2:
        raise InputError(
            f"--select teaching chooses among the epochs that a run has kept, and this one would keep {len(kept)} "
            f"(training.keep={recipe.training.keep}, training.epochs={recipe.training.epochs}); train for two epochs "
            "or more, and leave training.keep and training.checkpoint_epochs out"
        )


def _distill_auto(
    recipe: str,
    assignments: list[str],
    names: list[str],
    data_dir: Path | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Choose the teacher, say why, and distil from it."""
    from preceptor import training
    from preceptor.recipe import DistillRecipe, dump, find_recipe, load
    from preceptor.study.teachers import choose_teacher

    named = [assignment for assignment in assignments if assignment.startswith("teacher")]
    if named:
        raise InputError(f"'{named[0]}' names a teacher and --teacher auto chooses one; leave one of the two out")
    path = find_recipe(recipe)
    loaded = load(DistillRecipe, path, assignments)
    resolved, choice = choose_teacher(loaded, names, data_dir=data_dir, progress=True)
    if dry_run:
        _print(choice.table(), to_stderr=True)
        _print(dump(resolved), plain=True)
        return
    if not as_json:
        _print(choice.table())
    folder = out or Path("runs") / path.stem
    result = training.distill(resolved, folder, choice=choice.to_dict(), progress=True)
    _print(result if as_json else _score_table(result, folder))


def _teacher_override(name: str) -> str:
    """``teacher=`` for a run folder, or for what `assess` calls so: checkpoints of runs, ensembles."""
    import json

    from preceptor.recipe import text_override

    if Path(name).is_dir() or not (":" in name or "+" in name):
        return text_override("teacher", name)
    from preceptor.study.teachers.candidates import teacher_references

    references = [reference.model_dump(mode="json") for reference in teacher_references(name)]
    return f"teacher={json.dumps(references, ensure_ascii=False)}"


def _run_study(loaded: Any, folder: Path, as_json: bool) -> None:
    from preceptor.study.grid import run_study

    result = run_study(loaded, folder, command=_command(), progress=True, say=_say)
    _report(result, folder, as_json)


def _report(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    from preceptor.study.grid import table, write_report

    path = write_report(result, folder / "report.html")
    _print(result if as_json else table(result))
    _say(f"report: {path}")


def _with_data_dir(overrides: list[str] | None, data_dir: Path | None, parts: tuple[str, ...] = ("",)) -> list[str]:
    """``--data-dir`` for a recipe, or for each part of a study's."""
    from preceptor.recipe import text_override

    given = [text_override(f"{part}data.data_dir", data_dir) for part in parts if data_dir]
    return [*given, *(overrides or [])]


def _score_table(result: dict[str, Any], folder: Path) -> Any:
    from rich.table import Table

    table = Table(
        title=f"{result['verb']}: {folder}", caption="Brier score and NLL: lower is better", title_justify="left"
    )
    for column in ("weights", "part", "accuracy", "Brier", "NLL", "calibration error"):
        table.add_column(column, justify="left" if column in ("weights", "part") else "right")
    for part in ("heldout", "test"):
        for weights, scores in (result[part] or {}).items():
            values = [scores[key] for key in ("accuracy", "brier", "nll", "calibration_error")]
            table.add_row(weights, part, *("–" if v is None else f"{v:.4f}" for v in values))
    return table


def _command() -> str:
    """The command as somebody would type it again."""
    import shlex

    return shlex.join(["preceptor", *sys.argv[1:]])


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(value: Any, *, plain: bool = False, to_stderr: bool = False) -> None:
    """A table for people, JSON for programs."""
    import json

    from rich.console import Console

    if plain:
        typer.echo(value.rstrip())
    elif isinstance(value, dict):
        typer.echo(json.dumps(value, indent=1))
    else:
        console = Console(stderr=to_stderr)
        # Piped into a file there is no width to ask for: as wide as it needs to be.
        width = console.width if console.is_terminal else max(120, _width(value))
        left_out = _narrowed(value, width)
        Console(width=width, stderr=to_stderr).print(value)
        if left_out:
            _say(f"note: too narrow for {', '.join(left_out)}; widen the window, or use --json")


def _width(value: Any) -> int:
    """Columns of a terminal that a table needs to show every cell on one line."""
    from rich.console import Console

    wide = Console(width=10_000)
    return wide.measure(value).maximum


def _narrowed(table: Any, width: int) -> list[str]:
    """Take columns from the right of a table until it fits, as a number cut short would read as another one."""
    left_out: list[str] = []
    while len(table.columns) > 3 and _width(table) > width:
        left_out.insert(0, str(table.columns.pop().header))
    return left_out


def main() -> None:
    """The ``preceptor`` command."""
    app()
