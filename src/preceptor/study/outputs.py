"""What a study trains on, and what trained models say to the samples that students learn from."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from preceptor.data.dataset import Data, Indexed
from preceptor.errors import InputError
from preceptor.outputs import read_logits
from preceptor.outputs.asking import as_table
from preceptor.recipe import Recipe
from preceptor.runs import Weights
from preceptor.runs.contents import contents_of
from preceptor.runs.folder import read_contents, refuse_other_contents
from preceptor.training.data.samples import cut, load_data
from preceptor.training.engine.device import make_accelerator
from preceptor.training.scoring.evaluate import predict


def data_with_test(recipe: Recipe, seed: int) -> Data:
    """The data set of a recipe that is to be trained, refused before anything is if a study has no test samples to
    compare students on.

    Raises:
        InputError: it has no test set, and the recipe cuts none; or as `load_data` and `cut` say.
    """
    data = load_data(recipe, trust=True)
    if cut(recipe, data, seed).test is None:
        raise InputError(
            f"the data set '{recipe.data_name}' has no test set, and a study compares its students on one; give "
            "split.test, such as 0.2, in each of the study's recipes"
        )
    return data


def refuse_other_data(recipe: Recipe, run: Path) -> None:
    """Refuse a complete study whose data are others now, as one of its runs knows; data that it does not know are not
    loaded.

    Raises:
        InputError: naming what has changed.
    """
    if "data" in (read_contents(run) or {}):
        refuse_other_contents(run, contents_of(load_data(recipe, trust=True)), recipe.data_name)


def table_of(
    recipe: Recipe,
    model: nn.Module,
    weights: Weights,
    dataset: Indexed,
    indices: Tensor,
    source_of: Sequence[int] | None = None,
    *,
    calibrated: bool = False,
) -> Tensor:
    """A model's logits or log-probabilities by sample index, (N, C) or (M, N, C); NaN for samples not in `indices`.

    Args:
        indices: (n,), or (S, n) for a stack.
        source_of: for each model of a stack, its row of `indices`; default: its own.
    """
    accelerator = make_accelerator(recipe.training)
    logits, _ = predict(model.to(accelerator.device), dataset, indices, accelerator)
    seen = read_logits(logits, weights.distribution, weights.temperature if calibrated else 1.0)
    return as_table(seen, indices if source_of is None else indices[list(source_of)], len(dataset))
