"""Intervals: bootstrap for means over samples, Student's t for means over seeds, simultaneous for pairs."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from preceptor.errors import InputError

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "bootstrap_means",
    "mean_interval",
    "proportion_interval",
    "simultaneous_differences",
]

# Resamples are drawn in blocks of at most this many counts, 32 MB of them.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A value and the interval around it.

    >>> print(Estimate(0.5, 0.25, 0.75))
    0.500 [0.250, 0.750]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __neg__(self) -> "Estimate":
        return Estimate(0.0 - self.value, 0.0 - self.high, 0.0 - self.low)  # no -0.0

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is beyond doubt; never of an interval whose ends are not known (NaN)."""
        return self.low > 0 or self.high < 0


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean of a few independent values, such as seeds, in Student's t interval; NaN bounds for a single one.

    For a *paired* difference over seeds, hand in the differences.

    Args:
        values: numbers, `(n,)`.
        level: coverage.

    Raises:
        InputError: no number, no list, or a level that is not between 0 and 1.

    >>> print(mean_interval([1.0, 2.0, 3.0]))
    2.000 [-0.484, 4.484]
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise InputError(f"An interval of a mean needs a list of numbers, not shape {numbers.shape}.")
    check_level(level)
    mean, n = float(numbers.mean()), numbers.size
    if n == 1:
        return Estimate(mean, math.nan, math.nan)
    margin = float(stdtrit(n - 1, (1 + level) / 2) * numbers.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - margin, mean + margin)


def bootstrap_means(
    values: Float64[np.ndarray, "rows N"], *, resamples: int = 1000, seed: int = 0
) -> Float64[np.ndarray, "resamples rows"]:
    """Means of every row over resampled columns; all rows share the resamples, so that they stay paired.

    A resample is how often each sample was drawn, so that all means are one matrix product. A row that holds
    an infinity keeps its plain mean.

    Args:
        values: per-sample values, one score a row.
        resamples: number of resamples.
        seed: of the draws; same seed and same N, same resamples.

    Raises:
        InputError: no value, or resamples that are no whole number from 1.
    """
    if resamples < 1 or resamples != int(resamples):
        raise InputError(f"resamples is {resamples}: use a whole number from 1, and 1000 for an interval to trust.")
    if values.size == 0:
        raise InputError(f"The values have shape {values.shape}: give at least one.")
    num_samples = values.shape[-1]
    finite = np.isfinite(values).all(-1, keepdims=True)
    columns = np.where(finite, values, 0.0).T
    rng = np.random.default_rng(seed)
    rows_per_block = max(1, _BLOCK // num_samples)
    means = np.empty((resamples, len(values)))
    for start in range(0, resamples, rows_per_block):
        block = slice(start, min(start + rows_per_block, resamples))
        means[block] = _draw_counts(rng, block.stop - start, num_samples) @ columns / num_samples
    return np.where(finite.T, means, values.mean(-1))


def bootstrap_interval(
    values: Float64[np.ndarray, "N"], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Mean of per-sample values `(N,)` with the percentile bootstrap interval of coverage `level`.

    Raises:
        InputError: no value, resamples that are no whole number from 1, or a level that is not between 0 and 1.

    >>> print(bootstrap_interval(np.arange(5.0).repeat(20)))
    2.000 [1.730, 2.270]
    """
    ends = percentile_intervals(bootstrap_means(values[None], resamples=resamples, seed=seed), level)
    return Estimate(float(values.mean()), *(float(end[0]) for end in ends))


def proportion_interval(values: Float64[np.ndarray, "N"], level: float = 0.95) -> Estimate:
    """Mean of values that are 0 or 1, with Wilson's interval (1927), which is never of width 0 as a bootstrap's is
    where all values are alike.

    Args:
        values: `(N,)`.
        level: coverage.

    Raises:
        InputError: a level that is not between 0 and 1.

    >>> print(proportion_interval(np.ones(200)))
    1.000 [0.981, 1.000]
    """
    check_level(level)
    mean, n, z = float(values.mean()), len(values), float(ndtri((1 + level) / 2))
    center, margin = mean + z**2 / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    low, high = ((center + sign * margin) / (1 + z**2 / n) for sign in (-1, 1))
    return Estimate(mean, max(0.0, low), min(1.0, high))


def percentile_intervals(means: Float64[np.ndarray, "resamples rows"], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the percentile intervals, one a row of what was resampled."""
    check_level(level)
    # Without interpolation, which makes a NaN of two infinities.
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return low, high


def simultaneous_differences(
    values: Float64[np.ndarray, "rows N"],
    means: Float64[np.ndarray, "resamples rows"],
    *,
    level: float = 0.95,
    unseen: Float64[np.ndarray, "rows N"] | None = None,
) -> dict[tuple[int, int], Estimate]:
    """All pairwise differences of row means, with intervals that hold together at the given level.

    The half-width of each is its standard error times one factor for all: the quantile of the largest
    |t| over pairs, which the bootstrap gives (max-|t|, Westfall and Young 1993).

    Standard errors of differences obey the triangle inequality and the factor is common, hence "row a differs
    from b, and b from c, in the same direction" always implies that a differs from c: ranks built on it are
    consistent.

    Args:
        values: paired per-sample values, one teacher a row.
        means: their `bootstrap_means`.
        level: probability that all intervals cover.
        unseen: the worst value that each sample could have had. Where two confident teachers made no error, their
            differences have next to no spread, though one rare error would decide: intervals are widened by one such
            event, where the two rows differ most.

    Returns:
        For each pair of rows (i, j), i < j, the estimate of mean i minus mean j.

    Raises:
        InputError: a level that is not between 0 and 1.
    """
    check_level(level)
    events = np.zeros((len(values), 1)) if unseen is None else unseen / values.shape[1]
    pairs = list(combinations(range(len(values)), 2))
    if not pairs:
        return {}
    first, second = np.array(pairs).T
    center = values.mean(-1)
    difference = center[first] - center[second]
    # Of two quantities that obey the triangle inequality, so does the root of the sum of squares.
    error = np.array(
        [math.hypot(_standard_error(values[i] - values[j]), _largest(events[i], events[j])) for i, j in pairs]
    )
    largest_t = np.zeros(len(means))
    for i, j, d, e in zip(first, second, difference, error, strict=True):  # one pair at a time: there may be thousands
        if e > 0:  # equal rows have no error and differ by exactly 0: a tie, and no t
            np.maximum(largest_t, np.abs(means[:, i] - means[:, j] - d) / e, out=largest_t)
    # What was not seen is in no resample: never less than the factor of a single difference (Student's t).
    margin = max(np.quantile(largest_t, level), stdtrit(values.shape[1] - 1, (1 + level) / 2)) * error
    return {
        pair: Estimate(float(d), float(d - m), float(d + m))
        for pair, d, m in zip(pairs, difference, margin, strict=True)
    }


def ranks(differences: dict[tuple[int, int], Estimate], num_rows: int) -> list[int]:
    """Rank of each row: 1 + the number of rows whose mean is lower beyond doubt. Equal ranks are ties."""
    rank = [1] * num_rows
    for (i, j), difference in differences.items():
        if difference.excludes_zero:
            rank[i if difference.value > 0 else j] += 1
    return rank


def _draw_counts(rng: np.random.Generator, resamples: int, num_samples: int) -> np.ndarray:
    """How often each sample is drawn: multinomial, by counting draws, which is faster than drawing counts."""
    draws = rng.integers(num_samples, size=(resamples, num_samples))
    draws += num_samples * np.arange(resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape).astype(np.float64)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}: it must lie between 0 and 1, such as 0.95.")
