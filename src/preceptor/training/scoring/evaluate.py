"""Predictions of a model for the samples of a split, and their scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor import assess
from preceptor.data.dataset import Indexed
from preceptor.data.mixing import PARTNER
from preceptor.errors import InputError
from preceptor.inputs import call, tensors_of
from preceptor.outputs import read_logits
from preceptor.outputs.asking import as_table, ask
from preceptor.tasks.teacher import TeacherFn, moved
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.resident import resident
from preceptor.training.engine.device import Accelerator
from preceptor.training.scoring.selection import Selection

SCORES = ("accuracy", "brier", "nll")


class NotFinite(InputError):
    """A model has diverged: its logits for a sample are NaN or infinite."""

    def __init__(self, sentence: str, sample: int) -> None:
        super().__init__(sentence)
        self.sample = sample


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
        sample = int(index[(*model, row)])
        raise NotFinite(f"the logits{of} for sample {sample} are not finite", sample)


def refuse_input_not_finite(batch: Mapping[str, Any], what: str = "sample") -> None:
    """Refuse a batch with an input that is NaN or infinite, which nothing that is computed from it can survive.

    Args:
        batch: ``input`` (..., B, *shape), or several by name, and ``index`` of B samples; a stack's leading axes are
            ignored.
        what: what an error calls a sample.

    Raises:
        InputError: naming the sample.
    """
    for inputs in tensors_of(batch["input"]):
        if inputs.is_floating_point():
            _refuse_not_finite(inputs, batch, what)


def _refuse_not_finite(inputs: Tensor, batch: Mapping[str, Any], what: str) -> None:
    index = batch["index"]
    lead = index.ndim - 1
    bad = ~inputs.isfinite().flatten(lead + 1).all(-1) if inputs.ndim > lead + 1 else ~inputs.isfinite()
    if bad.any():
        *source, row = bad.nonzero()[0].tolist()
        # Sources that models share have one row of inputs and a row of indices for each model, all the same.
        sample = int(index[(*source, row)])
        value = inputs[(*source, row)]
        found = value[~value.isfinite()].flatten()[0].item()
        mixed = f", or of {int(batch[PARTNER][(*source, row)])}, mixed with it," if PARTNER in batch else ""
        raise InputError(
            f"the input of {what} {sample}{mixed} holds {found}; mend it or leave it out, as inputs must be finite"
        )


def predict(model: nn.Module, dataset: Indexed, indices: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Logits and labels of the samples at `indices`, on the CPU, of a model in eval mode.

    Args:
        model: single, or a `Stack`; on the accelerator's device.
        indices: int64 (n,), or (S, n) for a stack: one row for each source of the stack's inputs.

    Returns:
        Logits (n, C) or (M, n, C) in float32; labels (n,) or (S, n).
    """
    model.eval()

    def speaker(batch: Any) -> Tensor:
        with accelerator.autocast():
            return call(model, batch["input"])

    return ask(speaker, dataset, indices, accelerator.device)


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
    """The scores of a run's models on one part of their data, as the loop wants them once an epoch.

    Args:
        cohort: says which samples each model is scored on.
        part: ``heldout`` or ``test``.
        accelerator: device and precision.
        distribution: how logits are read (`read_logits`).
        selection: what the best epoch is chosen by, scored beside the others.
    """

    cohort: Cohort
    accelerator: Accelerator
    distribution: str
    dataset: Indexed
    indices: Tensor

    def __init__(
        self,
        cohort: Cohort,
        part: str,
        accelerator: Accelerator,
        *,
        distribution: str = "softmax",
        selection: Selection | None = None,
    ) -> None:
        self.selection: Selection = selection or Selection()
        self.cohort, self.accelerator, self.distribution = cohort, accelerator, distribution
        self.sample: str = "test sample" if part == "test" and cohort.data.test is not None else "sample"
        dataset, self.indices = cohort.scored(part)
        self.dataset = resident(dataset, accelerator.device)

    def predictions(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits or log-probabilities (.., n, C) as a student would see them, and labels of the same leading
        shape.
        """
        logits, labels = predict(model, self.dataset, self.indices, self.accelerator)
        try:
            refuse_not_finite(logits, self.cohort.by_model(self.indices))
        except NotFinite as error:
            refuse_input_not_finite(self.dataset[[error.sample]], self.sample)
            raise
        return read_logits(logits, self.distribution), self.cohort.by_model(labels)

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        outputs, labels = self.predictions(model)
        return score(outputs, labels) | self.selection.score(outputs, labels)


def tabulate(teacher: TeacherFn, dataset: Indexed, indices: Tensor, device: torch.device) -> Tensor:
    """A teacher's outputs (N, C) for the samples at `indices`, by sample index; the rows of all others are NaN.

    Raises:
        InputError: the teacher gives what is no distribution (`refuse_teacher_not_finite`).
    """
    outputs, _ = ask(moved(teacher, device), resident(dataset, device), indices, device)
    bad = _no_distribution(outputs)
    if bad.any():
        sample = int(indices[bad][0])
        refuse_input_not_finite(dataset[[sample]])
        refuse_teacher_not_finite(outputs, indices)
    return as_table(outputs, indices, len(dataset))


def refuse_teacher_not_finite(outputs: Tensor, index: Tensor, mask: Tensor | None = None) -> None:
    """Refuse a teacher's outputs (..., B, ..., C) that are no distribution, where `mask` is True.

    Minus infinity is the log-probability of what cannot be, unless a whole row is.

    Raises:
        InputError: naming the sample and the value.
    """
    bad = _no_distribution(outputs)
    bad = (bad if mask is None else bad & mask).reshape(*index.shape, -1).any(-1)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        row = outputs.reshape(*index.shape, -1)[first]
        value = row[row.isnan() | row.isinf()][0].item()
        cause = " (in half precision numbers above 65504 are)" if value == float("inf") else ""
        raise InputError(
            f"the teacher's output for sample {int(index[first])} holds {value}{cause}; give a teacher that was "
            "trained to an end, with logits that are finite"
        )


def _no_distribution(outputs: Tensor) -> Tensor:
    """Rows with NaN, with plus infinity, or of minus infinity alone."""
    return outputs.isnan().any(-1) | outputs.isposinf().any(-1) | outputs.isneginf().all(-1)
