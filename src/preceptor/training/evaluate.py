"""Predictions of a model for the samples of a split, and their scores."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor import assess
from preceptor.data.dataset import Indexed
from preceptor.errors import InputError
from preceptor.outputs import read_logits
from preceptor.tasks.stack import Stack
from preceptor.tasks.teacher import TeacherFn, moved
from preceptor.training.device import Accelerator

SCORES = ("accuracy", "brier", "nll")


class NotFinite(InputError):
    """A model has diverged: its logits for a sample are NaN or infinite."""


def refuse_not_finite(logits: Tensor, index: Tensor, mask: Tensor | None = None) -> None:
    """Refuse logits (..., B, ..., C) that are NaN or infinite where `mask` is True.

    Args:
        index: (..., B), the samples' positions, to name the first bad one; rows of it are models of a stack.

    Raises:
        NotFinite: naming the sample, and the model of a stack.
    """
    bad = ~logits.isfinite().all(-1)
    bad = (bad if mask is None else bad & mask).reshape(*index.shape, -1).any(-1)
    if bad.any():
        *model, row = bad.nonzero()[0].tolist()
        of = f" of model {model[0]}" if model else ""
        raise NotFinite(f"the logits{of} for sample {int(index[(*model, row)])} are not finite")


@torch.no_grad()
def predict(
    model: nn.Module, dataset: Indexed, indices: Tensor, accelerator: Accelerator, *, batch_size: int = 256
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
    """Accuracy, Brier score, NLL (nats), and the calibration error if asked for: numbers, or lists for a
    stack.
    """
    predictions = assess.forecast(logits.double().log_softmax(-1))
    values = {name: getattr(assess, name)(predictions, labels).mean(-1) for name in SCORES}
    if calibration:
        values["calibration_error"] = assess.calibration_error(predictions, labels)
        values["entropy"] = assess.entropy(predictions).mean(-1)
    return {name: np.asarray(value).tolist() for name, value in values.items()}


class Evaluator:
    """The held-out scores of a model, as the loop wants them once an epoch.

    Args:
        dataset: what `indices` point into.
        indices: (n,), or (S, n) for a stack.
        accelerator: device and precision.
        distribution: how logits are read (`read_logits`).
        source_of: for each model of a stack, its row of `indices`.
    """

    dataset: Indexed
    indices: Tensor
    distribution: str
    source_of: list[int] | None
    accelerator: Accelerator

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
        """Logits or log-probabilities (.., n, C) as a student would see them, and labels of the same leading
        shape.
        """
        logits, labels = predict(model, self.dataset, self.indices, self.accelerator)
        index = self.indices
        if self.source_of is not None:
            labels, index = labels[self.source_of], index[self.source_of]
        refuse_not_finite(logits, index)
        return read_logits(logits, self.distribution), labels

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        return score(*self.predictions(model))


@torch.no_grad()
def tabulate(
    teacher: TeacherFn, dataset: Indexed, indices: Tensor, device: torch.device, *, batch_size: int = 256
) -> Tensor:
    """A teacher's outputs (N, C) for the samples at `indices`; the rows of all others are NaN.

    N is the size of the data set, so that the table is looked up by sample index; a row that was never
    computed cannot pass for one that was.

    Raises:
        InputError: the teacher gives NaN.
    """
    teacher = moved(teacher, device)
    table: Tensor | None = None
    for chunk in indices.split(batch_size):
        batch = {name: tensor.to(device) for name, tensor in dataset[chunk.tolist()].items()}
        output = teacher(batch).float()
        if (bad := output.isnan().flatten(1).any(-1)).any():
            sample = int(chunk[bad.cpu()][0])
            raise InputError(
                f"the teacher's output for sample {sample} is NaN; give a teacher that was trained to an end"
            )
        if table is None:
            table = torch.full((len(dataset), output.shape[-1]), torch.nan)
        table[chunk] = output.cpu()
    assert table is not None
    return table
