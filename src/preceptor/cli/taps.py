"""The verb that shows where a loss can look into a model: ``taps``."""

from typing import Annotated, Any

import typer

from preceptor.cli.options import AllowCode, Json, Model, factory
from preceptor.cli.output import show_json, show_table
from preceptor.errors import InputError


def taps(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name (resnet20), package.module:name, RUN, or transformers' folder."),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of a model by name, e.g. hidden=[16].")
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", metavar="C,H,W", help="Of one input, e.g. 3,32,32, or the bytes of a text."),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Of a model by name; default: 10.")
    ] = None,
    made_by: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """List the modules of a model that a loss can look at, with their shapes, and what the words for them stand for.

    A tap is NAME, what a module gives, or NAME:input, what it is given; B is the batch. Of maps it says which axis the
    channels are: a loss is given all of them with the channels first.
    """
    from preceptor.recipe.text import override
    from preceptor.serving import tapping

    found = tapping.taps(
        model,
        num_classes=num_classes,
        input_shape=_shape(input_shape),
        options=override({}, options or []),
        factory=factory(made_by),
        trust=trust,
    )
    if as_json:
        show_json(found.to_dict())
    else:
        _show(found)


def _show(found: Any) -> None:
    from rich.table import Table

    table = Table()
    for column in ("module", "kind", "calls", "given", "gives", "channels"):
        table.add_column(column, justify="right" if column == "calls" else "left")
    for each in found.modules:
        calls = str(each.calls) if each.calls == 1 else f"{each.calls}: no tap"
        table.add_row(each.name, each.kind, calls, _text(each.given), _text(each.gave), _channels(each))
    show_table(table)
    for word, taps in found.words.items():
        typer.echo(f"{word}: {', '.join(taps) or 'nothing in this model'}")


def _channels(module: Any) -> str:
    """Which axis they are of what it gives, and where that is another, of what it is given."""
    given, gave = module.given_channels, module.gave_channels
    return (gave or "") if given == gave or not given else f"{given} to {gave or 'none'}"


def _text(shape: tuple[int | str, ...] | None) -> str:
    return "–" if shape is None else ", ".join(map(str, shape))


def _shape(said: str | None) -> tuple[int, ...] | None:
    if said is None:
        return None
    try:
        return tuple(int(each) for each in said.strip("()[] ").split(",") if each.strip())
    except ValueError:
        raise InputError(f"--input-shape is '{said}'; give whole numbers such as 3,32,32") from None
