"""The verbs put together, and what becomes of their errors."""

import os
import signal
import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from preceptor import __version__
from preceptor.cli.assess import assess
from preceptor.cli.posterior import posterior
from preceptor.cli.recipes import recipes
from preceptor.cli.recording import record
from preceptor.cli.records import DEFAULT, record_app
from preceptor.cli.run import distill, teach
from preceptor.cli.serving import export, predict
from preceptor.cli.studies import generations, quickstart, report, study
from preceptor.cli.taps import taps
from preceptor.cli.together import distill_together, teach_together
from preceptor.cli.verify import verify
from preceptor.errors import InputError
from preceptor.interrupts import listening
from preceptor.notices import Patient, say

UsageError: Any = typer.BadParameter.__base__  # of click, which typer may bring along or not
_SAVING = ("teach", "distill", "teach-together", "distill-together", "record", "generations", "study", "quickstart")


class Verbs(TyperGroup):
    """What a user did wrong is one sentence and exit code 2; a signal is 128 and its number, so Ctrl-C 130."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read what stands before the verb."""
        try:
            return super().make_context(*arguments, **options)
        except UsageError as error:
            _say_usage(error)
            raise typer.Exit(2) from None

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            with listening():
                return super().invoke(ctx)
        except UsageError as error:
            _say_usage(error, f"{ctx.command_path} {ctx.invoked_subcommand}")
            raise typer.Exit(2) from None
        except InputError as error:
            say(f"error: {error}{self._flag(ctx, error.argument)}")
            raise typer.Exit(2) from None
        except OSError as error:
            if error.filename is None:
                raise
            say(f"error: cannot use '{error.filename}': {error.strerror}; give another path")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            more = ""
            if ctx.invoked_subcommand in _SAVING:
                more = " and saved; the same command goes on" if getattr(stop, "saved", None) else "; start it again"
                more += " (quickstart: with --resume FOLDER)"
            say(f"stopped{more}")
            raise typer.Exit(128 + getattr(stop, "number", signal.SIGINT)) from None

    def _flag(self, ctx: Any, argument: str | tuple[str, ...] | None) -> str:
        """How a verb spells a Python argument: its functions name their options as Python does."""
        verb: Any = self.get_command(ctx, ctx.invoked_subcommand or "")
        verbs = (verb, *getattr(verb, "commands", {}).values()) if verb else ()  # `record` has verbs of its own
        options = [option for each in verbs for option in each.params]
        flags = {option.name: option.opts[0] for option in options}
        refusals = {option.name: option.secondary_opts[0] for option in options if option.secondary_opts}
        found = []
        for each in (argument,) if isinstance(argument, str) else argument or ():
            name, space, value = each.partition(" ")
            flag = flags.get({"loss": "losses"}.get(name, name), "")  # assess takes one or more
            if value == "False":
                flag, space, value = refusals.get(name, ""), "", ""
            found += [flag + space + value] if flag.startswith("-") else []
        return f" (on the command line: {' or '.join(found)})" if found else ""


def _say_usage(error: Any, command: str = "preceptor") -> None:
    """Say in one sentence what is wrong with the arguments of a verb, or which there are."""
    said = error.format_message()
    command = error.ctx.command_path.strip() if error.ctx else command
    remedy = "" if said.endswith("?") else f"; {command} --help says what it takes"  # else one was meant
    if (key := _meant(command, getattr(error, "option_name", None))) and remedy:
        remedy = f"; did you mean {key}=VALUE?"
    say(f"error: {said[:1].lower()}{said[1:].removesuffix('.')}{remedy}")


def _meant(command: str, option: str | None) -> str | None:
    """The key of the recipe that an option would be, such as ``--lr``."""
    if not option:
        return None
    from preceptor.recipe import DistillRecipe, TeachRecipe
    from preceptor.recipe.nearest import meant

    kinds = {"teach": TeachRecipe, "distill": DistillRecipe}
    kinds |= {"teach-together": TeachRecipe, "distill-together": DistillRecipe}
    kind, name = kinds.get(command.rpartition(" ")[2]), option.lstrip("-").replace("-", "_")
    if kind is None or name in kind.model_fields:
        return None if kind is None else name
    return meant(kind, [], name)


app: typer.Typer = typer.Typer(
    name="preceptor",
    cls=Verbs,
    help="Teach, assess, distill: knowledge distillation whose teachers are measured and chosen for their students.",
    pretty_exceptions_enable=False,
)
for _verb in (
    teach,
    distill,
    teach_together,
    distill_together,
    assess,
    posterior,
    generations,
    study,
    quickstart,
    report,
    export,
    predict,
    taps,
    verify,
):
    app.command()(_verb)
app.add_typer(recipes, name="recipes")
record_app.command(DEFAULT)(record)
app.add_typer(record_app, name="record")


@app.callback(invoke_without_command=True)
def _without_verb(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"preceptor {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """The ``preceptor`` command.

    Work goes on where its output cannot be written, to a full disk or a pipe that is closed; then it ends with 1.
    """
    _fill_closed_descriptors()
    nowhere = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    output = Patient(sys.stdout or nowhere)
    sys.stdout, sys.stderr = cast(Any, output), cast(Any, Patient(sys.stderr or nowhere))
    try:
        app()
    finally:
        output.flush()
        if output.error is not None:
            if not isinstance(output.error, BrokenPipeError):
                say(f"error: the output could not be written: {output.error}")
            sys.exit(1)


def _fill_closed_descriptors() -> None:
    """Let no file that is opened become the standard output of a library written in C."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
