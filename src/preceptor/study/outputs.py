"""What trained models say to the samples that students learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.data.dataset import Indexed
from preceptor.recipe import Recipe
from preceptor.training import run as runs
from preceptor.training import setup
from preceptor.training.evaluate import predict, read_logits
from preceptor.training.loop import load_weights, make_accelerator
from preceptor.training.stack import Stack


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
