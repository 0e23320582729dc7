"""How far a teacher is from the true label distribution, where the truth is known or humans have sampled it.

With labels drawn from the truth, `E||q - e_y||^2 = E||q - p*||^2 + E[1 - ||p*||^2]`: the Brier score is the
squared distance to the truth plus what no teacher can help. So labels alone tell two teachers' distances
apart, and several raters a sample tell the distance itself. All distances here are squared and summed over
classes, in [0, 2], one value per sample, lower is better.
"""

import numpy as np

from preceptor.assess.forecasts import Array, check_same_shape, first_row, read, to_numpy
from preceptor.assess.scores import PerSample
from preceptor.data.indexed import shortened
from preceptor.errors import InputError

__all__ = ["rater_distance", "rater_distance_difference", "rater_frequencies", "squared_distance"]


def squared_distance(probs: Array, truth: Array) -> PerSample:
    """`||q - p*||^2` to a known posterior.

    Args:
        probs: the teacher's probabilities q, `(..., N, C)`.
        truth: the true label distribution p*, `(N, C)` or the shape of `probs`.

    Returns:
        One value a sample, `(..., N)`, in float64.

    Raises:
        InputError: rows that are no distribution, or unlike shapes.

    >>> squared_distance([[0.5, 0.5]], [[1.0, 0.0]]).tolist()
    [0.5]
    """
    q = probabilities_of(probs, "The teacher's probabilities")
    p = probabilities_of(truth, "The true label distributions")
    check_same_shape("The true label distributions", p.shape, q.shape[-p.ndim :])
    return ((q - p) ** 2).sum(-1)


def rater_distance(probs: Array, counts: Array) -> PerSample:
    """Unbiased estimate of `||q - p*||^2` from the ratings of n >= 2 raters a sample.

    `||q - p_hat||^2` is too large by the noise of p_hat, the raters' frequencies, so from each row goes
    `(1 - ||p_hat||^2) / (n - 1)`, whose mean is exactly that noise. A single value may be negative.

    Args:
        probs: the teacher's probabilities q, `(..., N, C)`.
        counts: how many raters chose each class, `(N, C)`.

    Returns:
        One value a sample, `(..., N)`, in float64.

    Raises:
        InputError: a row has fewer than two ratings (differences need only one: `rater_distance_difference`).

    >>> rater_distance([[0.5, 0.5]], [[1, 1]]).tolist()
    [-0.5]
    """
    q = probabilities_of(probs, "The teacher's probabilities")
    raters, frequency = rater_frequencies(counts, q.shape[-2:])
    single = raters < 2
    if single.any():
        raise InputError(
            f"Row {first_row(single)} of the counts has one rating: a distance needs at least two a row, "
            "a difference of distances (rater_distance_difference) only one."
        )
    return ((q - frequency) ** 2).sum(-1) - rater_noise(raters, frequency)


def rater_distance_difference(probs: Array, others: Array, counts: Array) -> PerSample:
    """Unbiased estimate of `||q - p*||^2 - ||r - p*||^2`, from one rater a sample or more.

    The raters' noise is the same for both teachers and drops out; with one rater it is the difference of two
    Brier scores. In [-2, 2]; below 0 where q is nearer to the truth.

    Args:
        probs: one teacher's probabilities q, `(..., N, C)`.
        others: the other's, r, in the same shape.
        counts: how many raters chose each class, `(N, C)`.

    Returns:
        One value a sample, `(..., N)`, in float64.

    Raises:
        InputError: rows that are no distribution, unlike shapes, or counts that `rater_frequencies` refuses.

    >>> rater_distance_difference([[1.0, 0.0]], [[0.5, 0.5]], [[1, 0]]).tolist()
    [-0.5]
    """
    q = probabilities_of(probs, "The first teacher's probabilities")
    r = probabilities_of(others, "The second teacher's probabilities")
    check_same_shape("The second teacher's probabilities", r.shape, q.shape)
    _, frequency = rater_frequencies(counts, q.shape[-2:])
    return ((q - frequency) ** 2).sum(-1) - ((r - frequency) ** 2).sum(-1)


def rater_frequencies(counts: Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Number of raters `(N,)` and their frequencies `(N, C)`, of checked counts.

    Args:
        counts: how many raters chose each class, `(N, C)`.
        shape: which the counts must have.

    Raises:
        InputError: another shape, a row without a rater, or numbers that count nothing.
    """
    values = to_numpy(counts)
    check_same_shape("The counts", values.shape, shape)
    if values.dtype.kind not in "biuf":
        raise InputError(f"The counts hold {values.dtype} values: counts are whole numbers of raters.")
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.floor(values))).all(-1)
    if wrong.any():
        raise InputError(
            f"Row {first_row(wrong)} of the counts is [{shortened(values[wrong][0].tolist())}]: counts are whole "
            "numbers of raters (for a known distribution use squared_distance)."
        )
    raters = values.sum(-1).astype(np.float64)
    if not raters.all():
        raise InputError(f"Row {first_row(raters == 0)} of the counts is empty: drop samples without a rating.")
    return raters, values / raters[:, None]


def draw_labels(probs: np.ndarray, seed: int = 0) -> np.ndarray:
    """A label (N,) of each row of a distribution (N, C), drawn from it: what one rater, or the truth, might say."""
    below = probs.cumsum(1) <= np.random.default_rng(seed).random((len(probs), 1))
    return below.sum(1).clip(max=probs.shape[1] - 1)  # where rounding leaves the sum below 1


def rater_noise(raters: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Unbiased estimate of `E||p_hat - p*||^2` for each row with n >= 2 raters."""
    return (1 - (frequency**2).sum(-1)) / (raters - 1)


def probabilities_of(values: Array, what: str) -> np.ndarray:
    """Rows of distributions, checked, in float64."""
    return read(values, probabilities=True, what=what, remedy=", such as the softmax of logits").forecast().probs
