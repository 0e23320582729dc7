"""Predictions of a model for the samples of a split, and their scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from preceptor import assess
from preceptor.data.dataset import Indexed
from preceptor.training.stack import Stack
from preceptor.training.teacher import TeacherFn, moved, read_logits

SCORES = ("accuracy", "brier", "nll")


@torch.no_grad()
def predict(
    model: nn.Module, dataset: Indexed, indices: Tensor, accelerator: Accelerator, *, batch_size: int = 1000
) -> tuple[Tensor, Tensor]:
    """Logits and labels of the samples at `indices`, on the CPU.

    Args:
        model: single, or a `Stack`.
        indices: int64 (n,), or (S, n) for a stack: one row for each source of the stack's inputs.

    Returns:
        Logits (n, C) or (M, n, C); labels (n,) or (S, n).
    """
    model.eval()
    rows = indices if indices.ndim == 2 else indices[None]
    logits, labels = [], []
    for columns in torch.arange(rows.shape[1]).split(batch_size):
        batches = [dataset[row[columns].tolist()] for row in rows]
        inputs = torch.stack([batch["input"] for batch in batches]).to(accelerator.device)
        with accelerator.autocast():
            output = model(inputs if isinstance(model, Stack) else inputs[0])
        logits.append(output.float().cpu())
        labels.append(torch.stack([batch["label"] for batch in batches]))
    joined = torch.cat(labels, 1)
    return torch.cat(logits, -2), joined if indices.ndim == 2 else joined[0]


def score(logits: Tensor, labels: Tensor, *, calibration: bool = False) -> dict[str, Any]:
    """Accuracy, Brier score, NLL (nats), and the calibration error if asked for: numbers, or lists for a stack."""
    predictions = assess.forecast(logits.double().log_softmax(-1))
    values = {name: getattr(assess, name)(predictions, labels).mean(-1) for name in SCORES}
    if calibration:
        values["calibration_error"] = assess.calibration_error(predictions, labels)
        values["entropy"] = assess.entropy(predictions).mean(-1)
    return {name: np.asarray(value).tolist() for name, value in values.items()}


class Evaluator:
    """The held-out scores of a model, as the loop wants them once an epoch."""

    def __init__(
        self,
        dataset: Indexed,
        indices: Tensor,
        accelerator: Accelerator,
        *,
        distribution: str = "softmax",
        source_of: list[int] | None = None,
    ) -> None:
        self.dataset, self.indices, self.accelerator = dataset, indices, accelerator
        self.distribution, self.source_of = distribution, source_of

    def predictions(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits or log-probabilities (.., n, C) as a student would see them, and labels of the same leading shape."""
        logits, labels = predict(model, self.dataset, self.indices, self.accelerator)
        labels = labels if self.source_of is None else labels[self.source_of]
        return read_logits(logits, self.distribution), labels

    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        return score(*self.predictions(model))


@torch.no_grad()
def tabulate(teacher: TeacherFn, dataset: Indexed, indices: Tensor, device: torch.device, *, batch_size: int = 1000) -> Tensor:
    """A teacher's outputs (N, C) for the samples at `indices`; the rows of all others are NaN.

    N is the size of the data set, so that the table is looked up by sample index; a row that was never computed cannot
    pass for one that was.
    """
    teacher = moved(teacher, device)
    table: Tensor | None = None
    for chunk in indices.split(batch_size):
        batch = {name: tensor.to(device) for name, tensor in dataset[chunk.tolist()].items()}
        output = teacher(batch).float()
        if table is None:
            table = torch.full((len(dataset), output.shape[-1]), torch.nan)
        table[chunk] = output.cpu()
    assert table is not None
    return table
