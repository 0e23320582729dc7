"""Choose every objective's learning rate from one grid, on held-out samples and with seeds of their own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from foretold.recipe import PredictionStudy
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.runs.files import load_tensors
from preceptor.training.scoring.evaluate import score
from preceptor.training.verbs import teach


def tune_rates(
    study: PredictionStudy,
    data: Data,
    rates: Sequence[float],
    seeds: Sequence[int],
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[float, float]]:
    """The mean held-out Brier score of each teacher's best epoch, by teacher and learning rate.

    The best epoch, as candidates are made of early epochs too: the last one alone would ask for the slowest rate.

    Args:
        study: whose teachers are tuned.
        data: what they are trained on.
        rates: each teacher's ``optimizer.lr``.
        seeds: others than the study's own.
        folder: of the runs, ``<teacher>-<rate>`` each.
        say: told each result, one line at a time.

    Raises:
        InputError: a seed that the study itself uses.
    """
    if shared := set(seeds) & set(study.seeds):
        raise InputError(f"the seed {min(shared)} is one of the study's own; tune with others")
    found: dict[str, dict[float, float]] = {}
    for name in study.teachers:
        found[name] = {}
        for rate in rates:
            recipe = study.teach_recipe(name)
            recipe = recipe.model_copy(
                update={
                    "optimizer": recipe.optimizer.model_copy(update={"lr": rate}),
                    "training": recipe.training.model_copy(update={"keep": "last"}),
                }
            )
            place = folder / f"{name}-{rate:g}"
            teach(recipe, place, data=data, seeds=seeds)
            tensors, _ = load_tensors(place / "predictions.safetensors")
            brier = score(tensors["heldout/best"], tensors["heldout/labels"])["brier"]
            found[name][rate] = float(np.mean(brier))
            say(f"{name:20} lr {rate:<8g} held-out Brier {found[name][rate]:.4f}")
    return found
