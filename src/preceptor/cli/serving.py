"""The verbs that give a run's model to others: ``export`` and ``predict``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from preceptor.cli.columns import check_columns, show_columns, write_columns
from preceptor.cli.options import AllowCode, DataDir, Json, Model, factory
from preceptor.cli.output import show_json
from preceptor.notices import say

_Run = Annotated[
    str, typer.Argument(metavar="RUN", help="RUN, RUN:best, RUN:best:calibrated, RUN:epoch-4, RUN:member-2.")
]
_SHOWN = 50


def export(
    run: _Run,
    to: Annotated[str, typer.Option("--to", help="onnx, pt2 (torch.export), safetensors, or pretrained (a folder).")],
    path: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file or folder; default: RUN with a suffix, beside RUN.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare it with the run's stored held-out predictions.")
    ] = True,
    preprocessing: Annotated[
        bool,
        typer.Option("--preprocessing/--no-preprocessing", help="Of onnx, pt2: begin with the run's normalisation."),
    ] = True,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="The largest difference of a probability that passes.")
    ] = None,
    data_dir: DataDir = None,
    model: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Write a run's model for other programs, checked against what the run has stored."""
    from preceptor import serving

    given: Any = {"path": path, "check": check, "preprocessing": preprocessing, "tolerance": tolerance}
    done = serving.export(run, to=to, **given, data_dir=data_dir, model=factory(model), trust=trust)  # type: ignore
    if as_json:
        show_json(done.to_dict())
    else:
        typer.echo(done)


def predict(
    run: _Run,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Images, .npz (its array 'inputs') or .npy arrays, or lines of text."),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Write the table: .csv, .parquet, or - for CSV on standard output."),
    ] = None,
    top: Annotated[int, typer.Option("--top", help="So many classes of each input, the most probable first.")] = 1,
    every: Annotated[bool, typer.Option("--all", help="A column for the probability of each class.")] = False,
    resize: Annotated[bool, typer.Option("--resize", help="Scale and crop images of another size.")] = False,
    model: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Say what a run's model takes files for, prepared as the run's own data were."""
    from preceptor import serving

    if out:
        check_columns(out)
    answers = serving.predict(run, files, resize=resize, model=factory(model), trust=trust)
    columns = answers.columns(top=top, every=every)
    if out:
        write_columns(columns, out)
    elif as_json:
        show_json(columns)
    else:
        show_columns(columns, _SHOWN)
        if len(answers.rows) > _SHOWN:
            say(f"note: the first {_SHOWN} of {len(answers.rows)}; --out table.csv writes all")
