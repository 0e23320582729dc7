"""The verb that draws models from a posterior: ``posterior``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from preceptor.cli.options import AllowCode, DataDir, Json, Model, factory
from preceptor.cli.output import score_table, show_json, show_table
from preceptor.errors import InputError


def posterior(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run with training.keep=all.")],
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="The folder of the samples.")] = None,
    samples: Annotated[int, typer.Option("--samples", help="How many models.")] = 8,
    start_epoch: Annotated[
        int | None,
        typer.Option("--start-epoch", help="Epochs before the first that counts; default: half of the run's."),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", help="Of the covariance beside the diagonal.")] = 20,
    scale: Annotated[float, typer.Option("--scale", help="Of the covariance; at 0 all are the mean.")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    data_dir: DataDir = None,
    model: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Draw models from the posterior over a run's weights (SWAG), which are a teacher together.

    assess, record and distill --teacher take DIR for the mean of their probabilities, DIR:member-2 for one.
    """
    if folder is None:
        raise InputError("the samples need a folder; give --out DIR")
    from preceptor import training

    given: Any = {"samples": samples, "start_epoch": start_epoch, "rank": rank, "scale": scale, "seed": seed}
    given |= {"data_dir": data_dir, "model": factory(model), "trust": trust, "progress": True}
    result = training.posterior(run, folder, **given)
    if as_json:
        show_json(result)
    else:
        show_table(score_table(_by_sample(result), folder), keep=2)


def _by_sample(result: dict[str, Any]) -> dict[str, Any]:
    """The scores of each sample, and of their mixture, as those of a run's several weights."""
    rows: dict[str, Any] = {"verb": "posterior"}
    for part, mixture in result["posterior"]["mixture"].items():
        scores = result[part]["last"]
        each = {
            f"member-{number}": {name: values[number] for name, values in scores.items()}
            for number in range(result["members"])
        }
        rows[part] = {**each, "mixture": mixture}
    return {"heldout": None, "test": None, **rows}
