"""Asking a model or a teacher for all its outputs: in one place, whoever wants them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from preceptor.data.dataset import Indexed
from preceptor.inputs import batch_to
from preceptor.outputs.logits import logits_of


@torch.no_grad()
def ask(
    speaker: Callable[[Mapping[str, Any]], Any],
    dataset: Indexed,
    indices: Tensor,
    device: torch.device | str,
    *,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """What somebody says to the samples at `indices`, and their labels, on the CPU.

    Args:
        speaker: from a batch on `device` to logits or log-probabilities (B, C), or (M, B, C) for a stack of M models.
        dataset: what `indices` point into.
        indices: int64 (n,), or (S, n) for a stack: one row for each source of its inputs.
        batch_size: samples a batch.

    Returns:
        Outputs (n, C) or (M, n, C) in float32; labels, int64, of the shape of `indices`.
    """
    outputs, labels = [], []
    for columns in torch.arange(indices.shape[-1]).split(batch_size):
        batch = _batch(dataset, indices[..., columns])
        said = logits_of(speaker(batch_to(batch, device)))
        outputs.append(said.float().cpu())
        labels.append(batch["label"].cpu())
    return torch.cat(outputs, -2), torch.cat(labels, -1)


def _batch(dataset: Indexed, indices: Tensor) -> dict[str, Any]:
    if indices.ndim == 1:
        return dataset[indices.tolist()]
    batches = [dataset[row.tolist()] for row in indices]
    return {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}


def as_table(outputs: Tensor, indices: Tensor, num_samples: int) -> Tensor:
    """Outputs looked up by sample index: (..., N, C), whose rows are NaN where nobody was asked, so that a row that was
    never computed cannot pass for one that was.

    Args:
        outputs: (..., n, C).
        indices: of the samples that they are for, (n,) or (..., n).
        num_samples: N, the size of the data set.

    >>> as_table(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), 2)
    tensor([[nan, nan],
            [1., 2.]])
    """
    table = torch.full((*outputs.shape[:-2], num_samples, outputs.shape[-1]), torch.nan)
    return table.scatter_(-2, indices[..., None].expand_as(outputs), outputs)
