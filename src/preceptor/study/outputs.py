"""What trained models say to the samples that students learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from preceptor.data.dataset import Indexed
from preceptor.errors import InputError
from preceptor.recipe import Recipe, dump
from preceptor.study.recipe import Study
from preceptor.training import run as runs
from preceptor.training import setup
from preceptor.training.evaluate import predict, read_logits
from preceptor.training.files import make_folder, write_text
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


def claim(folder: Path, study: BaseModel) -> None:
    """Write a study's recipe into its folder, or refuse a folder that holds another one.

    Students are stored by the row of their teacher, so even another order of the teachers is another study.
    """
    path = folder / "study.yaml"
    # How many processes and threads compute it changes no number.
    changes = {"workers": 1, "threads": None} if isinstance(study, Study) else {}
    text = dump(study.model_copy(update=changes))
    if not path.exists():
        make_folder(folder)
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise InputError(f"the folder '{folder}' holds another study (see its study.yaml); give another one with --out")
