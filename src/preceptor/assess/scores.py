"""Scores of a teacher's predictions, one value per sample: a score is the mean over its samples.

Every function takes logits or log-probabilities `(..., N, C)` (or a `Forecast`) and labels `(N,)` or `(...,
N)`, as tensors or NumPy arrays, computes in float64 and returns a NumPy array `(..., N)`. What cannot be
written as a mean of per-sample values, the calibration errors, lives in `preceptor.assess.calibration`.
"""

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast
from preceptor.errors import InputError

__all__ = [
    "accuracy",
    "brier",
    "entropy",
    "nll",
    "power_sum",
    "renyi_entropy",
    "sharpness",
    "top_k_mass",
]

PerSample = Float64[np.ndarray, "*stack N"]


def accuracy(logits: Array | Forecast, labels: Array) -> PerSample:
    """1 where the most probable class is the label, else 0. Higher is better.

    >>> accuracy([[2.0, 0.0], [2.0, 0.0]], [0, 1]).tolist()
    [1.0, 0.0]
    """
    predictions = forecast(logits)
    return (predictions.probs.argmax(-1) == check_labels(labels, predictions.probs.shape)).astype(np.float64)


def brier(logits: Array | Forecast, labels: Array) -> PerSample:
    """Brier score `||p - e_y||^2`, summed over classes. In [0, 2], lower is better, proper.

    Half of it, for two classes, is the Brier score of the binary literature.

    >>> brier([[0.0, 0.0], [0.0, float("-inf")]], [0, 1]).tolist()
    [0.5, 2.0]
    """
    predictions = forecast(logits)
    at_label = _at_label(predictions.probs, check_labels(labels, predictions.probs.shape))
    return sharpness(predictions) - 2 * at_label + 1


def nll(logits: Array | Forecast, labels: Array) -> PerSample:
    """Negative log-likelihood `-log p_y` in nats. In [0, inf], lower is better, proper.

    >>> nll([[0.0, 0.0]], [1]).round(4).tolist()
    [0.6931]
    """
    predictions = forecast(logits)
    return -_at_label(predictions.log_probs, check_labels(labels, predictions.probs.shape))


def sharpness(logits: Array | Forecast) -> PerSample:
    """Sharpness `||p||^2 = sum_c p_c^2`. From 1/C (uniform) to 1 (certain); neither direction is better.

    >>> sharpness([[0.0, 0.0]]).tolist()
    [0.5]
    """
    probs = forecast(logits).probs
    return np.einsum("...c,...c->...", probs, probs)


def entropy(logits: Array | Forecast) -> PerSample:
    """Shannon entropy in nats. From 0 (certain) to log C (uniform); neither direction is better.

    >>> entropy([[0.0, 0.0], [0.0, float("-inf")]]).round(4).tolist()
    [0.6931, 0.0]
    """
    predictions = forecast(logits)
    finite_log_probs = np.where(predictions.probs > 0, predictions.log_probs, 0.0)
    return np.einsum("...c,...c->...", predictions.probs, -finite_log_probs)


def power_sum(logits: Array | Forecast, *, temperature: float) -> PerSample:
    """`U_{1/T}(p) = sum_c p_c^(1/T)`, WTTM's weight of a sample (arXiv 2402.11148).

    For T >= 1 from 1 (certain) to C^(1 - 1/T) (uniform); 1 throughout at T = 1. Raises `InputError` if the temperature
    is not above 0.

    >>> power_sum([[0.0, 0.0]], temperature=2.0).round(4).tolist()
    [1.4142]
    """
    _check_temperature(temperature)
    return np.exp(forecast(logits).log_probs / temperature).sum(-1)


def renyi_entropy(logits: Array | Forecast, *, temperature: float) -> PerSample:
    """Rényi entropy of order 1/T in nats, `log U_{1/T}(p) / (1 - 1/T)`; Shannon's at T = 1.

    From 0 (certain) to log C (uniform), whatever the temperature. It is what TTM adds to KD (arXiv
    2402.11148). Raises `InputError` if the temperature is not above 0.

    >>> renyi_entropy([[0.0, 0.0]], temperature=2.0).round(4).tolist()
    [0.6931]
    """
    # The limit at T = 1 is Shannon's; nearer to it than this the quotient is rounding noise.
    if abs(temperature - 1) < 1e-6:
        return entropy(logits)
    _check_temperature(temperature)
    return logsumexp(forecast(logits).log_probs / temperature, axis=-1) / (1 - 1 / temperature)


def top_k_mass(logits: Array | Forecast, *, k: int) -> PerSample:
    """Sum of the k largest probabilities. From k/C (uniform) to 1. Raises `InputError` if k is not from 1 to C.

    >>> top_k_mass([[0.0, 0.0, float("-inf")]], k=2).tolist()
    [1.0]
    """
    probs = forecast(logits).probs
    classes = probs.shape[-1]
    if not 1 <= k <= classes:
        raise InputError(f"k is {k}: choose it from 1 to the number of classes, {classes}.")
    return np.partition(probs, classes - k, axis=-1)[..., classes - k :].sum(-1)


def _at_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}: it must be above 0.")
