"""A language model's scores on a text, token by token: a handful of numbers for each label, whatever the vocabulary."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from preceptor.assess.calibration import Bins, sorted_into_bins
from preceptor.assess.comparison import BINS
from preceptor.errors import InputError

__all__ = ["OF_LABELS", "OF_MODEL", "TokenScores"]

OF_LABELS = ("documents", "labels", "bytes")
"""The fields that tell of the labels, the same for every model."""
OF_MODEL = ("nll", "brier", "entropy", "confidence", "correct", "nll_at")
"""The fields that tell of the model."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """The scores of one model on n labels of tokens, at temperature 1 and in nats.

    Attributes:
        documents: of each label, the number of its document, int32 (n,).
        labels: the tokens that came, int32 (n,).
        bytes: how many bytes of text each of them is, int32 (n,).
        nll: minus the log-probability of the label, float32 (n,).
        brier: the Brier score, float32 (n,); NaN where it is not known.
        entropy: of the distribution, float32 (n,).
        confidence: the largest probability, float32 (n,).
        correct: whether the most probable token is the label, 0 or 1, float32 (n,).
        nll_at: the NLL at each of the temperatures, float32 (n, G).
        temperatures: G of them, ascending.

    >>> nll = torch.tensor([1.0, 3.0])
    >>> whole, flat = torch.tensor([0, 1]), torch.zeros(2)
    >>> TokenScores(whole, whole, 2 + whole, nll, flat, flat, flat, flat, nll[:, None], (1.0,)).means()["nll"]
    2.0
    """

    documents: Tensor
    labels: Tensor
    bytes: Tensor
    nll: Tensor
    brier: Tensor
    entropy: Tensor
    confidence: Tensor
    correct: Tensor
    nll_at: Tensor
    temperatures: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def means(self) -> dict[str, float]:
        """Means over labels: ``accuracy``, ``brier``, ``nll`` (nats), ``bits_per_byte``, ``calibration_error`` (of the
        largest probability, in 15 bins) and ``entropy``.

        Bits per byte are all nats over ln 2 times all bytes; NaN where there are no bytes.
        """
        total, nats = int(self.bytes.sum(dtype=torch.int64)), float(self.nll.double().sum())
        return {
            "accuracy": _mean(self.correct),
            "brier": _mean(self.brier),
            "nll": _mean(self.nll),
            "bits_per_byte": nats / math.log(2) / total if total else math.nan,
            "calibration_error": float(self.bins().absolute().values.mean()),
            "entropy": _mean(self.entropy),
        }

    def bins(self) -> Bins:
        """The labels in bins by the largest probability, of equal mass."""
        confidence, correct = (each.double().cpu().numpy() for each in (self.confidence, self.correct))
        return sorted_into_bins(confidence, correct, BINS, "mass")

    def best_temperature(self) -> float:
        """The temperature of the lowest mean NLL: fitted to these labels, so take those of the held-out part.

        The best on the grid, moved to where the parabola through it and its two neighbours, over log T, is lowest; the
        best itself where it has not got two.
        """
        return self._lowest()[0]

    def nll_at_best_temperature(self) -> float:
        """The mean NLL at the `best_temperature`, by the same parabola."""
        return self._lowest()[1]

    def check(self, what: str) -> None:
        """Refuse scores of unlike shapes or of nothing; `what` is what an error calls them.

        Raises:
            InputError: so it is.
        """
        if not len(self):
            raise InputError(f"{what} are of no label; hold out documents of two tokens or more")
        grid = list(self.temperatures)
        if not grid or grid[0] <= 0 or grid != sorted(set(grid)):
            raise InputError(f"{what} are at the temperatures {grid}; give some above 0, ascending")
        for field in (*OF_LABELS, *OF_MODEL):
            shape = tuple(getattr(self, field).shape)
            wanted = (len(self), len(grid)) if field == "nll_at" else (len(self),)
            if shape != wanted:
                raise InputError(f"the {field} in {what} have shape {shape}; give {wanted}, a row for each label")

    def _lowest(self) -> tuple[float, float]:
        """Where the mean NLL is lowest, and how low."""
        nll = self.nll_at.double().mean(0).cpu().numpy()
        place = int(nll.argmin())
        temperature, three = self.temperatures[place], slice(place - 1, place + 2)
        if 0 < place < len(nll) - 1 and np.isfinite(nll[three]).all():
            x = np.log(self.temperatures[three]) - math.log(temperature)
            square, slope, lowest = np.polyfit(x, nll[three], 2)
            if square > 0:
                shift = -slope / (2 * square)
                return temperature * math.exp(shift), float(lowest + slope * shift / 2)
        return temperature, float(nll[place])


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
