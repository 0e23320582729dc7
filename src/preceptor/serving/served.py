"""One trained model by its name, and the module that goes from raw numbers to probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import __version__
from preceptor.errors import InputError
from preceptor.inputs import call
from preceptor.names import Trust
from preceptor.outputs import logits_of, read_logits
from preceptor.recipe import TeacherRef
from preceptor.runs.references import name_of, teacher_references
from preceptor.runs.weights import Factory, Weights, model_of, temperature_of

PIXELS = 255.0
_NORMALIZE = {"divide_by", "mean", "std"}


@dataclass(frozen=True, eq=False)
class Served:
    """A run's model, in eval mode on the CPU, and how it is read."""

    reference: TeacherRef
    model: nn.Module
    weights: Weights
    temperature: float

    @property
    def name(self) -> str:
        """As on the command line."""
        return name_of(self.reference)

    @property
    def is_text(self) -> bool:
        """Whether its inputs are rows of UTF-8 bytes."""
        return "max_bytes" in self.weights.preprocessing

    @property
    def is_normalized(self) -> bool:
        """Whether it is known how raw numbers became its inputs: `(raw / divide_by - mean) / std`."""
        return self.weights.preprocessing.keys() == _NORMALIZE

    @property
    def is_pixels(self) -> bool:
        """Whether its raw numbers are bytes."""
        return self.is_normalized and self.weights.preprocessing["divide_by"] == PIXELS

    def described(self, *, raw: bool) -> dict[str, Any]:
        """What a reader of an exported file must know, as JSON.

        Args:
            raw: whether the preprocessing is inside.
        """
        weights = self.weights
        return {
            "preceptor": __version__,
            "run": self.name,
            "class_names": list(weights.class_names),
            "input_shape": list(weights.input_shape),
            "preprocessing": weights.preprocessing,
            "preprocessing_inside": raw,
            "distribution": weights.distribution,
            "temperature": self.temperature,
        }


def served(
    run: Path | str, *, member: int | None = None, model: Factory | str | None = None, trust: Trust = False
) -> Served:
    """The model that `run` names: ``RUN``, ``RUN:best``, ``RUN:best:calibrated``, ``RUN:member-2``.

    Args:
        run, member, model, trust: as of `preceptor.load`.

    Raises:
        InputError: as `preceptor.load`; a temperature that the run has not fitted.
    """
    references = teacher_references(str(run))
    if len(references) != 1:
        raise InputError(f"'{run}' stands for {len(references)} models; give one of them")
    [reference] = references
    if member is not None:
        reference = reference.model_copy(update={"member": member})
    module, weights = model_of(reference, model=model, trust=trust)
    return Served(reference, module, weights, temperature_of(reference, weights))


class Whole(nn.Module):
    """A model with what is done before and after it: `forward(input)` gives logits (B, C) and probabilities (B, C).

    Args:
        served: the model.
        raw: begin with the run's own preprocessing; else inputs are the model's.
        model: in place of `served.model`: the same, read back from a file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, served: Served, *, raw: bool, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model: nn.Module = served.model if model is None else model
        self.raw: bool = raw
        self.reading: dict[str, Any] = {
            "distribution": served.weights.distribution,
            "temperature": served.temperature,
            "transform": served.weights.transform,
        }
        how, ndim = served.weights.preprocessing, len(served.weights.input_shape)
        self.divide_by: float = how["divide_by"] if raw else 1.0
        for name in ("mean", "std"):
            values = torch.tensor(how[name] if raw else 0.0, dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, *[1] * (ndim - 1)))

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, at the temperature, and their softmax."""
        inputs = (input.to(torch.float32) / self.divide_by - self.mean) / self.std if self.raw else input
        logits = read_logits(logits_of(call(self.model, inputs)), **self.reading).to(torch.float32)
        return logits, logits.softmax(-1)


def raw_inputs(inputs: Tensor, served: Served) -> Tensor:
    """The raw numbers that became these inputs (B, ...): uint8 where they are bytes, else float32.

    Raises:
        InputError: they should be bytes and are not.
    """
    how = served.weights.preprocessing
    mean, std = (_per_channel(how[name], inputs.ndim) for name in ("mean", "std"))
    raw = (inputs.double() * std + mean) * how["divide_by"]
    if not served.is_pixels:
        return raw.float()
    whole = raw.round()
    if (raw - whole).abs().max() > 0.01 or whole.min() < 0 or whole.max() > PIXELS:
        raise InputError(
            f"the raw inputs of '{served.name}' are no bytes, though they were "
            "divided by 255; leave the preprocessing out",
            argument="preprocessing False",
        )
    return whole.to(torch.uint8)


def _per_channel(values: Sequence[float], ndim: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *[1] * (ndim - 2))
