"""The verbs put together, and what becomes of their errors."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from preceptor import __version__
from preceptor.cli.assess import assess
from preceptor.cli.run import distill, teach
from preceptor.cli.studies import generations, quickstart, report, study
from preceptor.cli.verify import verify
from preceptor.errors import InputError

_SAVING = ("teach", "distill", "generations", "study", "quickstart")


class Verbs(TyperGroup):
    """What a user did wrong is one sentence and exit code 2; Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"error: {error}{self._flag(ctx, error.argument)}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            saved = " and saved; the same command goes on (quickstart: with --resume FOLDER)"
            typer.echo(f"stopped{saved if ctx.invoked_subcommand in _SAVING else ''}", err=True)
            raise typer.Exit(130) from None

    def _flag(self, ctx: Any, argument: str | None) -> str:
        """How a verb spells a Python argument: its functions name their options as Python does."""
        name = {"loss": "losses"}.get(argument or "", argument)  # assess takes one or more
        verb = self.get_command(ctx, ctx.invoked_subcommand or "")
        flags = [option.opts[0] for option in verb.params if option.name == name] if verb else []
        return f" (on the command line: {flags[0]})" if flags and flags[0].startswith("--") else ""


app: typer.Typer = typer.Typer(
    name="preceptor",
    cls=Verbs,
    help="Teach, assess, distill: knowledge distillation whose teachers are measured and chosen for their students.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _verb in (teach, distill, assess, generations, study, quickstart, report, verify):
    app.command()(_verb)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(f"preceptor {__version__}")
        raise typer.Exit


def main() -> None:
    """The ``preceptor`` command."""
    app()
