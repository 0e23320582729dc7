"""Calibration: is what a teacher calls 70 % sure right 70 % of the time? Measured in bins.

**Binning.** `mass` (the default) cuts at the quantiles of the confidences, so that bins hold equally many
samples; confidences that are equal, but for rounding, share a bin. `width` cuts [0, 1] into equal parts, as (Guo et
al. 2017), and serves comparison with published figures. Either way `bins` is 15 unless told otherwise, and
class-wise errors bin each class by itself.

**Bias.** With few samples a bin is off by chance, and an average of absolute gaps counts this noise as error.
The squared gap can be freed of it, the absolute one cannot: `debiased_calibration_error` and
`brier_decomposition` are, and the intervals of the others allow for it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast
from preceptor.assess.scores import brier
from preceptor.errors import InputError

__all__ = [
    "BrierParts",
    "Reliability",
    "brier_decomposition",
    "calibration_error",
    "classwise_calibration_error",
    "debiased_calibration_error",
    "reliability",
]

Binning = Literal["mass", "width"]
PerModel = Float64[np.ndarray, "*stack"] | np.float64

# Log-odds that differ by less may be one number, rounded in the logits: float32 of 100 has steps of 8e-6.
_ROUNDING = 1e-5
# Classes whose probabilities are copied at a time.
_COLUMNS = 32


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: arrays `(..., bins)`; confidence and accuracy are NaN where a bin is empty."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class BrierParts(NamedTuple):
    """The Brier score in two parts that add up to it."""

    calibration: PerModel
    refinement: PerModel


def calibration_error(
    logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass"
) -> PerModel:
    """Top-label expected calibration error (ECE): |accuracy - confidence| averaged over samples, bin by bin.

    In [0, 1], lower is better. Biased upwards (see above). Guo et al. 2017 (arXiv 1706.04599); equal-mass
    bins as recommended by Nixon et al. 2019 (arXiv 1904.01685).

    Args:
        logits: logits or log-probabilities `(..., N, C)`.
        labels: class indices `(N,)` or `(..., N)`.
        bins: number of bins.
        binning: `mass` for equally filled bins, `width` for equally wide ones.

    Returns:
        One value a model, `(...)`, in float64.

    Raises:
        InputError: no such binning, bins that are no whole number from 1, labels that are no class indices of these
            samples, or anything `forecast` refuses.

    >>> float(calibration_error([[0.0, 0.0]] * 4, [0, 0, 0, 1]))
    0.25
    """
    return _of_each(lambda p, y: top_label_bins(p, y, bins, binning).absolute().values.mean(), logits, labels)


def debiased_calibration_error(
    logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass"
) -> PerModel:
    """Top-label calibration error in the 2-norm, debiased: root of the mean squared gap less its noise.

    In [0, 1], lower is better. From each bin's squared gap goes the estimated variance of the gap, which
    makes the square unbiased for given bins (Kumar et al. 2019, arXiv 1909.10155, with the variance of
    confidence minus outcome in place of the outcome's, as confidences differ within a bin). A bin of one
    sample counts as 0; a negative square is reported as 0.

    Arguments, result and errors as in `calibration_error`.

    >>> float(debiased_calibration_error([[0.0, 0.0]] * 4, [0, 0, 0, 1]))
    0.0
    """
    squared = _of_each(lambda p, y: top_label_bins(p, y, bins, binning).squared().mean(), logits, labels)
    return root(squared)


def classwise_calibration_error(
    logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass"
) -> PerModel:
    """Class-wise calibration error: |frequency - probability| in the bins of each class, mean over classes.

    In [0, 1], lower is better; biased upwards. With `binning="width"` the static calibration error (SCE),
    with `mass` the adaptive one (ACE) of Nixon et al. 2019 (arXiv 1904.01685).

    Arguments, result and errors as in `calibration_error`.

    >>> float(classwise_calibration_error([[0.0, 0.0]] * 4, [0, 0, 0, 1]))
    0.25
    """
    return _of_each(lambda p, y: classwise(p.log_probs, y, bins, binning).absolute.mean(), logits, labels)


def brier_decomposition(
    logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass"
) -> BrierParts:
    """Brier score = calibration + refinement, after Murphy 1973, class by class and summed over classes.

    *Calibration* is the mean squared gap between probability and frequency over the bins of each class, less
    its sampling noise (Ferro and Fricker 2012): 0 for a calibrated teacher, on average, so a little below it
    at times. *Refinement* is the rest: what a recalibration of each class's probability could not remove.
    Lower is better for both.

    Arguments and errors as in `calibration_error`; each part is `(...)`.

    >>> parts = brier_decomposition([[0.0, 0.0]] * 4, [0, 0, 0, 1])
    >>> float(parts.calibration + parts.refinement)
    0.5
    """
    predictions = forecast(logits)
    calibration = _of_each(lambda p, y: classwise(p.log_probs, y, bins, binning).squared.mean(), predictions, labels)
    return BrierParts(calibration, brier(predictions, labels).mean(-1) - calibration)


def reliability(logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass") -> Reliability:
    """Count, mean confidence and accuracy of every top-label bin: what a reliability diagram draws.

    Arguments and errors as in `calibration_error`; each value is `(..., bins)`.

    >>> reliability([[0.0, 0.0]] * 4, [0, 0, 0, 1], bins=2, binning="width").count.tolist()
    [4.0, 0.0]
    """
    diagram = _of_each(lambda p, y: top_label_bins(p, y, bins, binning).diagram(p.probs.max(-1)), logits, labels)
    return Reliability(*np.moveaxis(diagram, -2, 0))


@dataclass(frozen=True, eq=False)
class Absolute:
    """Values of samples (N,) whose mean is the error, and a bound on its bias."""

    values: Float64[np.ndarray, "N"]
    bias: float


@dataclass(frozen=True, eq=False)
class Bins:
    """Samples in bins, by one confidence each."""

    residual: Float64[np.ndarray, "N"]
    """Confidence minus outcome of each sample."""
    index: Int64[np.ndarray, "N"]
    """The bin of each sample."""
    count: Float64[np.ndarray, "bins"]
    """Samples in each bin."""
    gap: Float64[np.ndarray, "bins"]
    """Mean residual of each bin."""
    variance: Float64[np.ndarray, "bins"]
    """Estimated sampling variance of each gap."""
    weighted: bool = False
    """Samples have weights: count is their sum, and gap a weighted mean."""

    def absolute(self) -> Absolute:
        """The mean absolute gap, written as a mean over samples.

        sum_b w_b |gap_b| is the mean of sign(gap_b) times the residual, and in this form it is resampled,
        signs held fixed. Its bias lies between 0 and the error that a calibrated teacher of equal noise would
        show.
        """
        bias = math.sqrt(2 / math.pi) * (self.count @ np.sqrt(self.variance)) / self.count.sum()
        return Absolute(np.sign(self.gap)[self.index] * self.residual, float(bias))

    def squared(self) -> Float64[np.ndarray, "N"]:
        """The debiased mean squared gap, written as a mean over samples.

        Of each bin it is the mean of residual times residual over all pairs of its samples, so that a sample's value
        (value plus influence function) takes the gap of the others: with its own residual in it, a gap of few samples
        would follow their noise, and an interval of the refinement would be too narrow. (Not so under weights.)
        """
        if self.weighted:
            gap = self.gap[self.index]
            return gap * (2 * self.residual - gap) - self.variance[self.index]
        others = np.maximum(self.count - 1, 1)
        debiased = self.gap**2 - self.variance
        slope, own = 2 * self.count * self.gap / others, 2 / others
        alone = self.count == 1
        slope[alone] = own[alone] = 0.0
        return self.residual * (slope[self.index] - own[self.index] * self.residual) - debiased[self.index]

    def diagram(self, confidence: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "3 bins"]:
        """Count, mean confidence and accuracy of each bin."""
        with np.errstate(invalid="ignore"):
            number = np.bincount(self.index, minlength=len(self.count)).astype(np.float64)
            mean = np.bincount(self.index, confidence, len(self.count)) / number
        return np.stack([number, mean, mean - self.gap])


@dataclass(frozen=True, eq=False)
class Classwise:
    """What the bins of all classes make of each sample: values (N,) whose means are the errors."""

    absolute: Float64[np.ndarray, "N"]
    """Of the class-wise calibration error, a mean over classes."""
    bias: float
    """A bound on its bias."""
    squared: Float64[np.ndarray, "N"]
    """Of the Brier score's calibration part, a sum over classes."""


def top_label_bins(prediction: Forecast, labels: Int64[np.ndarray, "N"], bins: int, binning: Binning) -> Bins:
    """Bins of the top class's probability against whether it is the label."""
    return sorted_into_bins(prediction.probs.max(-1), prediction.probs.argmax(-1) == labels, bins, binning)


def classwise(
    log_probs: Float64[np.ndarray, "N C"] | Float32[np.ndarray, "N C"],
    labels: Int64[np.ndarray, "N"],
    bins: int,
    binning: Binning,
    weights: Float64[np.ndarray, "N"] | None = None,
) -> Classwise:
    """Bins of each class's probability against whether it is the label, one class after the other.

    Only a few columns at a time are exponentiated: all bins of many classes at once would take several times the memory
    of the probabilities.
    """
    samples, classes = log_probs.shape
    edges = _Edges(samples, bins, binning)
    absolute, squared, bias = np.zeros(samples), np.zeros(samples), 0.0
    for start in range(0, classes, _COLUMNS):
        columns = np.ascontiguousarray(log_probs[:, start : start + _COLUMNS].T)
        for label, confidence in enumerate(np.exp(columns).astype(np.float64, copy=False), start):
            found = _sorted_into(edges, confidence, labels == label, weights)
            gap = found.absolute()
            absolute += gap.values
            squared += found.squared()
            bias += gap.bias
    return Classwise(absolute / classes, bias / classes, squared)


def sorted_into_bins(
    confidence: Float64[np.ndarray, "N"],
    outcome: np.ndarray,
    bins: int,
    binning: Binning,
    weights: Float64[np.ndarray, "N"] | None = None,
) -> Bins:
    """Samples by confidence, each with its outcome (N,), 0 or 1."""
    return _sorted_into(_Edges(len(confidence), bins, binning), confidence, outcome, weights)


def root(squared: PerModel) -> PerModel:
    """Square root; a debiased square below zero counts as zero."""
    return np.sqrt(np.maximum(squared, 0.0))


def _of_each(score: Callable[[Forecast, np.ndarray], Any], logits: Array | Forecast, labels: Array) -> Any:
    """A score of a forecast (N, C) and labels (N,), of each model of a stack."""
    predictions = forecast(logits)
    *stack, samples, classes = predictions.probs.shape
    targets = check_labels(labels, predictions.probs.shape).reshape(-1, samples)
    log_probs, probs = (each.reshape(-1, samples, classes) for each in (predictions.log_probs, predictions.probs))
    found = [score(Forecast(*model), y) for *model, y in zip(log_probs, probs, targets, strict=True)]
    return np.reshape(found, (*stack, *np.shape(found)[1:]))[()]


class _Edges:
    """Where bins of N confidences end."""

    def __init__(self, samples: int, bins: int, binning: Binning) -> None:
        if bins < 1:
            raise InputError(f"bins is {bins}: use at least one.")
        if binning not in ("mass", "width"):
            raise InputError(f"binning is {binning!r}: use 'mass' or 'width'.")
        self.bins = bins
        self._width = np.arange(1, bins) / bins
        # Edges are values that occur, so the bins depend on the set of confidences and not on their order.
        self._ranks = (
            np.quantile(np.arange(samples), self._width, method="inverted_cdf").astype(int)
            if binning == "mass"
            else None
        )

    def index(self, confidence: np.ndarray) -> np.ndarray:
        """The bin of each: above how many edges it lies."""
        edges = self._width
        if self._ranks is not None:
            edges = np.sort(confidence)[self._ranks]
            edges = edges + _ROUNDING * edges * (1 - edges)
        above = np.zeros(len(confidence), dtype=np.uint8 if self.bins <= 256 else np.int64)
        # Comparing all with each of a few edges is faster than a search for each.
        for edge in edges:
            above += confidence > edge
        return above.astype(np.int64)


def _sorted_into(edges: _Edges, confidence: np.ndarray, outcome: np.ndarray, weights: np.ndarray | None = None) -> Bins:
    index = edges.index(confidence)
    residual = confidence - outcome
    number = np.bincount(index, minlength=edges.bins).astype(np.float64)
    count = number if weights is None else np.bincount(index, weights, edges.bins)
    summed = residual if weights is None else weights * residual
    gap = np.bincount(index, summed, edges.bins) / np.where(count > 0, count, 1)
    centred = residual - gap[index] if weights is None else weights * (residual - gap[index])
    # n / (n - 1) of the squares; one sample tells nothing of its own noise: its whole squared gap may be noise.
    scatter = np.bincount(index, centred**2, edges.bins) * number / np.maximum(number - 1, 1)
    variance = np.where(number == 1, gap**2, scatter / np.where(count > 0, count, 1) ** 2)
    return Bins(residual, index, count, gap, variance, weights is not None)
