"""The verbs of many runs: ``generations``, ``study``, ``quickstart``, and ``report`` on what they wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preceptor.cli.options import DataDir, DryRun, Folder, Json, Overrides, RecipeName, with_data_dir
from preceptor.cli.output import command, score_table, show_json, show_recipe, show_table
from preceptor.errors import InputError
from preceptor.notices import say

if TYPE_CHECKING:
    from preceptor.study.recipe import Study


def generations(
    recipe: RecipeName,
    overrides: Overrides = None,
    folder: Folder = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a chain: generation 0 under an objective, then each student teaches the next."""
    from preceptor.recipe import find_recipe, load
    from preceptor.study.generations import run_generations, table
    from preceptor.study.recipe import Generations

    loaded = load(Generations, find_recipe(recipe), with_data_dir(overrides, data_dir, "teach", "distill"))
    if dry_run:
        show_recipe(loaded)
        return
    folder = folder or Path("runs") / loaded.name
    result = run_generations(loaded, folder, command=command(), progress=True, say=say)
    if as_json:
        show_json(result)
    else:
        show_table(table(result))


def study(
    recipe: RecipeName,
    overrides: Overrides = None,
    folder: Folder = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a grid: teachers x losses x seeds, with a table and a report. Stopped, the same command goes on."""
    from preceptor.recipe import find_recipe, load
    from preceptor.study.recipe import Study

    loaded = load(Study, find_recipe(recipe), with_data_dir(overrides, data_dir, "teach", "distill", "baseline"))
    if dry_run:
        show_recipe(loaded)
        return
    _run(loaded, folder or Path("runs") / loaded.name, as_json)


def quickstart(
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Default: ./quickstart-<time>.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with an interrupted quickstart.")] = None,
    as_json: Json = False,
) -> None:
    """The whole story on handwritten digits, in about a minute: teach, assess, distill, report."""
    import time

    from preceptor.recipe import find_recipe, load
    from preceptor.study.recipe import Study

    if resume and not resume.is_dir():
        raise InputError(f"there is no quickstart to resume at '{resume}'; give the folder that it printed")
    if folder and folder.exists() and not resume:
        raise InputError(f"'{folder}' exists already; go on with it by --resume {folder}, or give a new folder")
    folder = resume or folder or Path(f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}")
    loaded = load(Study, find_recipe("quickstart"), overrides or [])
    say(f"folder: {folder} (interrupted, it goes on with --resume {folder})")
    _run(loaded, folder, as_json)


def report(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder that quickstart, study or generations wrote.")],
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as GitHub markdown.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw a study's or run's pictures into a PNG.")
    ] = None,
) -> None:
    """Print the table again, and write the report of a study or a run anew, without training anything."""
    if (folder / "generations.json").is_file():
        if picture:
            raise InputError("generations have no pictures; leave --picture out")
        _report_generations(folder, as_json, markdown)
    elif (folder / "study.json").is_file():
        _report_study(folder, as_json, markdown, picture)
    elif (folder / "recipe.yaml").is_file():
        _report_run(folder, as_json, markdown, picture)
    else:
        raise InputError(
            f"'{folder}' holds no run, study.json or generations.json; give a folder that teach, distill or a finished "
            "quickstart, study or generations wrote"
        )


def _report_generations(folder: Path, as_json: bool, markdown: bool) -> None:
    from preceptor.study import generations
    from preceptor.study.folder import read_complete

    result = read_complete(folder / "generations.json")
    generations.check(result)
    if markdown:
        typer.echo(generations.markdown(result))
    elif as_json:
        show_json(result)
    else:
        show_table(generations.table(result))


def _report_study(folder: Path, as_json: bool, markdown: bool, picture: Path | None) -> None:
    from preceptor.study.folder import read_complete
    from preceptor.study.grid import report as reports

    result = read_complete(folder / "study.json")
    if picture:
        say(f"picture: {reports.write_picture(result, picture)}")
    if markdown:
        typer.echo(reports.markdown(result))
    else:
        _report(result, folder, as_json)


def _report_run(folder: Path, as_json: bool, markdown: bool, picture: Path | None) -> None:
    from preceptor.study import single

    report = single.read_report(folder)
    if picture:
        say(f"picture: {single.write_picture(report, picture)}")
    if markdown:
        typer.echo(single.markdown(report))
        return
    path = single.write_report(report, folder / "report.html")
    if as_json:
        show_json(report.result)
    else:
        show_table(score_table(report.result, folder), keep=2)
    say(f"report: {path}")


def _run(study: "Study", folder: Path, as_json: bool) -> None:
    from preceptor.study.grid import run_study

    result = run_study(study, folder, command=command(), progress=True, say=say)
    _report(result, folder, as_json)


def _report(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    from preceptor.study.grid import table, write_report

    path = write_report(result, folder / "report.html")
    if as_json:
        show_json(result)
    else:
        show_table(table(result))
    say(f"report: {path}")
