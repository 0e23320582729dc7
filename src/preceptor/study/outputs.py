"""What a study trains on, and what trained models say to the samples that students learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import Data, Indexed
from preceptor.errors import InputError
from preceptor.outputs import read_logits
from preceptor.recipe import Recipe
from preceptor.runs import load_weights
from preceptor.tasks.stack import Stack
from preceptor.training import setup
from preceptor.training.evaluate import predict
from preceptor.training.loop import make_accelerator


def data_with_test(recipe: Recipe, seed: int) -> Data:
    """The recipe's data set, refused before anything is trained if a study has no test samples to compare students on.

    Raises:
        InputError: it has no test set, and the recipe cuts none; or as `setup.load_data` and `setup.cut` say.
    """
    data = setup.load_data(recipe)
    if setup.cut(recipe, data, seed).test is None:
        raise InputError(
            f"the data set '{recipe.data.name}' has no test set, and a study compares its students on one; give "
            "split.test, such as 0.2, in each of the study's recipes"
        )
    return data


def load_stack(
    recipe: Recipe, path: Path, data: Any, seeds: Sequence[int], source_of: Sequence[int] | None = None
) -> tuple[Stack, runs.Weights]:
    """A stack of models whose weights are at `path`; one member for each of `seeds`."""
    weights = runs.read_weights(path)
    model = Stack([setup.new_model(recipe, data, seed) for seed in seeds], source_of)
    load_weights(model, weights.tensors, f"'{path}'")
    return model, weights


def table_of(
    recipe: Recipe,
    model: nn.Module,
    weights: runs.Weights,
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
    accelerator = make_accelerator(recipe, None)
    logits, _ = predict(model.to(accelerator.device), dataset, indices, accelerator)
    seen = read_logits(logits, weights.distribution)
    if calibrated:
        seen = seen / torch.tensor(weights.temperature)[..., None, None]
    rows = indices if source_of is None else indices[list(source_of)]
    table = torch.full((*seen.shape[:-2], len(dataset), seen.shape[-1]), torch.nan)
    return table.scatter_(-2, rows[..., None].expand_as(seen), seen)
