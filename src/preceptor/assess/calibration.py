"""Calibration: is what a teacher calls 70 % sure right 70 % of the time? Measured in bins.

**Binning.** `mass` (the default) cuts at the quantiles of the confidences, so that bins hold equally many
samples; confidences that are equal, but for rounding, share a bin. `width` cuts [0, 1] into equal parts, as (Guo et
al. 2017), and serves comparison with published figures. Either way `bins` is 15 unless told otherwise, and class-wise
errors bin each class by itself.

**Bias.** With few samples a bin is off by chance, and an average of absolute gaps counts this noise as error.
The squared gap can be freed of it, the absolute one cannot: `debiased_calibration_error` and
`brier_decomposition` are, and the intervals of the others allow for it.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

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
# Log-odds that differ by less may be one number, rounded in the logits: float32 of 100 has steps of 8e-6.
_ROUNDING = 1e-5
PerModel = Float64[np.ndarray, "*stack"] | np.float64


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
    return top_label_bins(forecast(logits), labels, bins, binning).absolute().values.mean(-1)


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
    return root(top_label_bins(forecast(logits), labels, bins, binning).squared().mean(-1))


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
    return classwise_bins(forecast(logits), labels, bins, binning).absolute().values.mean((-2, -1))


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
    calibration = classwise_bins(predictions, labels, bins, binning).squared().sum(-2).mean(-1)
    return BrierParts(calibration, brier(predictions, labels).mean(-1) - calibration)


def reliability(logits: Array | Forecast, labels: Array, *, bins: int = 15, binning: Binning = "mass") -> Reliability:
    """Count, mean confidence and accuracy of every top-label bin: what a reliability diagram draws.

    Arguments and errors as in `calibration_error`; each value is `(..., bins)`.

    >>> reliability([[0.0, 0.0]] * 4, [0, 0, 0, 1], bins=2, binning="width").count.tolist()
    [4.0, 0.0]
    """
    predictions = forecast(logits)
    binned = top_label_bins(predictions, labels, bins, binning)
    with np.errstate(invalid="ignore"):
        confidence = _totals(predictions.probs.max(-1), binned.index, bins) / binned.count
    return Reliability(binned.count, confidence, confidence - binned.gap)


@dataclass(frozen=True, eq=False)
class Absolute:
    """Values of samples `(..., N)` whose mean is the error, and a bound `(...)` on its bias."""

    values: np.ndarray
    bias: PerModel


@dataclass(frozen=True, eq=False)
class Bins:
    """Samples in bins, by confidence; every leading position (a model, a class) has bins of its own."""

    residual: Float64[np.ndarray, "*rows N"]
    """Confidence minus outcome of each sample."""
    index: Int64[np.ndarray, "*rows N"]
    """The bin of each sample, counted through all positions."""
    count: Float64[np.ndarray, "*rows bins"]
    """Samples in each bin."""
    gap: Float64[np.ndarray, "*rows bins"]
    """Mean residual of each bin."""
    variance: Float64[np.ndarray, "*rows bins"]
    """Estimated sampling variance of each gap."""

    def absolute(self) -> Absolute:
        """The mean absolute gap, written as a mean over samples.

        sum_b w_b |gap_b| is the mean of sign(gap_b) times the residual, and in this form it is resampled,
        signs held fixed. Its bias lies between 0 and the error that a calibrated teacher of equal noise would
        show.
        """
        bias = np.sqrt(2 / np.pi) * self._mean(np.sqrt(self.variance))
        return Absolute(np.sign(self.gap).ravel()[self.index] * self.residual, bias)

    def squared(self) -> Float64[np.ndarray, "*rows N"]:
        """The debiased mean squared gap, written as a mean over samples (value plus influence function)."""
        gap = self.gap.ravel()[self.index]
        return gap * (2 * self.residual - gap) - np.asarray(self._mean(self.variance))[..., None]

    def _mean(self, values: np.ndarray) -> PerModel:
        """Mean over bins, weighted by their size."""
        return (self.count * values).sum(-1) / self.residual.shape[-1]


def top_label_bins(predictions: Forecast, labels: Array, bins: int, binning: Binning) -> Bins:
    """Bins of the top class's probability against whether it is the label: one set a model."""
    right = predictions.probs.argmax(-1) == check_labels(labels, predictions.probs.shape)
    return _sort_into_bins(predictions.probs.max(-1), right, bins, binning)


def classwise_bins(predictions: Forecast, labels: Array, bins: int, binning: Binning) -> Bins:
    """Bins of each class's probability against whether it is the label: one set a model and class."""
    classes = np.arange(predictions.num_classes)[:, None]
    is_label = check_labels(labels, predictions.probs.shape)[..., None, :] == classes
    return _sort_into_bins(np.ascontiguousarray(np.moveaxis(predictions.probs, -1, -2)), is_label, bins, binning)


def root(squared: PerModel) -> PerModel:
    """Square root; a debiased square below zero counts as zero."""
    return np.sqrt(np.maximum(squared, 0.0))


def _sort_into_bins(confidence: np.ndarray, outcome: np.ndarray, bins: int, binning: Binning) -> Bins:
    index = _bin_index(confidence, bins, binning)
    residual = confidence - outcome
    count = _totals(np.ones_like(residual), index, bins)
    gap = _totals(residual, index, bins) / np.maximum(count, 1)
    scatter = _totals((residual - gap.ravel()[index]) ** 2, index, bins)
    # One sample tells nothing of its own noise: its whole squared gap may be noise.
    variance = np.where(count == 1, gap**2, scatter / np.maximum(count * (count - 1), 1))
    return Bins(residual, index, count, gap, variance)


def _bin_index(confidence: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    if bins < 1:
        raise InputError(f"bins is {bins}: use at least one.")
    rows = confidence.reshape(-1, confidence.shape[-1])
    inner = np.arange(1, bins) / bins
    if binning == "mass":
        # Edges are values that occur, so the bins depend on the set of confidences and not on their order.
        edges = np.quantile(rows, inner, axis=-1, method="inverted_cdf").T
        edges = edges + _ROUNDING * edges * (1 - edges)
    elif binning == "width":
        edges = np.broadcast_to(inner, (len(rows), bins - 1))
    else:
        raise InputError(f"binning is {binning!r}: use 'mass' or 'width'.")
    index = [bins * i + np.searchsorted(edges[i], row) for i, row in enumerate(rows)]
    return np.stack(index).reshape(confidence.shape)


def _totals(values: np.ndarray, index: np.ndarray, bins: int) -> np.ndarray:
    """Sums over bins of values `(..., N)`: `(..., bins)`."""
    shape = (*index.shape[:-1], bins)
    return np.bincount(index.ravel(), weights=values.ravel(), minlength=math.prod(shape)).reshape(shape)
