"""Scores of all samples at once that give each class the same weight, however many samples it has."""

import numpy as np
from jaxtyping import Float64

from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast

__all__ = ["balanced_accuracy", "macro_f1"]

PerModel = Float64[np.ndarray, "*stack"]


def macro_f1(logits: Array | Forecast, labels: Array) -> PerModel:
    """The mean over classes of the F1 score 2 hits / (samples of the class + predictions of it). In [0, 1], higher is
    better.

    Over the classes that occur among labels or predictions, as `sklearn.metrics.f1_score(average="macro")`.

    Args:
        logits: logits or log-probabilities `(..., N, C)`.
        labels: `(N,)` or `(..., N)`.

    Returns:
        `(...)`, float64.

    >>> float(macro_f1([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [0, 1, 1]).round(4))
    0.6667
    """
    hits, predicted, there = _counts(logits, labels)
    known = (predicted + there) > 0
    f1 = 2 * hits / np.where(known, predicted + there, 1)
    return np.asarray(f1.sum(-1) / known.sum(-1))


def balanced_accuracy(logits: Array | Forecast, labels: Array) -> PerModel:
    """The mean over classes of the share of their samples that are predicted right. In [0, 1], higher is better.

    Over the classes that occur among the labels, as `sklearn.metrics.balanced_accuracy_score`.

    Args, returns: as of `macro_f1`.

    >>> float(balanced_accuracy([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [0, 1, 1]))
    0.75
    """
    hits, _, there = _counts(logits, labels)
    recall = hits / np.where(there > 0, there, 1)
    return np.asarray(recall.sum(-1) / (there > 0).sum(-1))


def _counts(logits: Array | Forecast, labels: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class `(..., C)`: samples predicted right, predicted to be of it, and of it."""
    predictions = forecast(logits)
    known = np.broadcast_to(check_labels(labels, predictions.probs.shape), predictions.probs.shape[:-1])
    classes = np.arange(predictions.num_classes)
    said = predictions.probs.argmax(-1)[..., None] == classes
    is_it = known[..., None] == classes
    return (said & is_it).sum(-2), said.sum(-2), is_it.sum(-2)
