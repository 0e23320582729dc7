"""Intervals: bootstrap for means over samples, Student's t for means over seeds, simultaneous for pairs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from preceptor.errors import InputError, is_number

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "bootstrap_means",
    "mean_interval",
    "proportion_interval",
    "simultaneous_differences",
]

# Two samples that were not seen, one as much in favour of either as a sample could be: the root of their squares.
_UNSEEN = math.sqrt(2)
# Resamples are drawn in blocks of at most this many counts, 8 MB of them.
_BLOCK = 1_000_000


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
    if values.size == 0:
        raise InputError(f"The values have shape {values.shape}: give at least one.")
    check_resamples(resamples)
    finite = np.isfinite(values).all(-1, keepdims=True)
    columns = np.where(finite, values, 0.0).T
    means = np.empty((int(resamples), len(values)))
    for block, counts in _draws(resamples, values.shape[-1], seed):
        means[block] = counts.astype(np.float64) @ columns / values.shape[-1]
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


def proportion_interval(
    values: Float64[np.ndarray, "N"],
    level: float = 0.95,
    alike: float | None = None,
    groups: int | None = None,
) -> Estimate:
    """Mean of values that are 0 or 1, with Wilson's interval (1927), which is never of width 0 as a bootstrap's is
    where all values are alike.

    Args:
        values: `(N,)`.
        level: coverage.
        alike: how many independent samples tell as much as these, where they come in groups or have weights.
        groups: how many groups they come in; `alike` is then an estimate of so few numbers, and Student's t with one
            degree of freedom less takes the place of the normal distribution.

    Raises:
        InputError: a level that is not between 0 and 1.

    >>> print(proportion_interval(np.ones(200)))
    1.000 [0.981, 1.000]
    """
    check_level(level)
    mean, n = float(values.mean()), alike or len(values)
    z = float(ndtri((1 + level) / 2) if groups is None else stdtrit(groups - 1, (1 + level) / 2))
    center, margin = mean + z**2 / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    low, high = ((center + sign * margin) / (1 + z**2 / n) for sign in (-1, 1))
    return Estimate(mean, max(0.0, low), min(1.0, high))


def percentile_intervals(means: Float64[np.ndarray, "resamples rows"], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the percentile intervals, one a row of what was resampled."""
    check_level(level)
    # Without interpolation, which makes a NaN of two infinities.
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return low, high


def studentised_intervals(
    values: Float64[np.ndarray, "rows N"],
    spans: Float64[np.ndarray, "rows"],
    *,
    level: float = 0.95,
    alike: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Estimate]:
    """Row means in bootstrap-t intervals that allow for what has not been seen, each at the given level.

    Args:
        values: per-sample values, one score a row.
        spans: of each row, from the best to the worst value that a sample might have had.
        level: coverage of each interval.
        alike: as of `simultaneous_differences`.
        resamples: number of resamples.
        seed: of the draws.

    Raises:
        InputError: as `simultaneous_differences`.

    >>> [interval] = studentised_intervals(np.zeros((1, 100)), np.array([2.0]))
    >>> print(interval)
    0.000 [-0.056, 0.056]
    """
    alone, size = (np.arange(len(values)), np.full(len(values), -1)), float(alike or values.shape[1])
    t, error = _studentised(np.vstack([values, np.zeros(values.shape[1])]), *alone, spans, size, resamples, seed)
    margin = np.maximum(np.quantile(t, level, axis=0), _student(size, level)) * error
    return [Estimate(float(m), float(m - w), float(m + w)) for m, w in zip(values.mean(-1), margin, strict=True)]


def simultaneous_differences(
    values: Float64[np.ndarray, "rows N"],
    means: Float64[np.ndarray, "resamples rows"] | None = None,
    *,
    level: float = 0.95,
    unseen: Float64[np.ndarray, "rows M"] | None = None,
    best: Float64[np.ndarray, "rows M"] | None = None,
    alike: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[tuple[int, int], Estimate]:
    """All pairwise differences of row means, with intervals that hold together at the given level.

    The half-width of each is its standard error times one factor for all: the quantile of the largest
    |t| over pairs, which the bootstrap gives (max-|t|, Westfall and Young 1993), each resample by its own errors.

    Where two confident teachers differ on few samples, their difference has next to no spread, though one sample more
    could decide. As Agresti and others do for proportions, the error therefore counts two samples that were not seen,
    one as much in favour of either as a sample could be: `hypot(error, sqrt(2) * span / N)`. docs/results.md
    tells how often such intervals cover.

    Errors so made obey the triangle inequality and the factor is common, hence "row a differs
    from b, and b from c, in the same direction" always implies that a differs from c: ranks built on it are
    consistent.

    Args:
        values: paired values, one teacher a row, one a sample (or a group of them).
        means: their `bootstrap_means`; no longer needed, and no more is taken from them than how many they are.
        level: probability that all intervals cover.
        unseen: the worst value, of 0 or more, that each sample could have had; of a row counts the root mean square, as
            what a rare error adds to the error of a mean is its square. By default the highest of the
            values, and at least 1, which suits accuracy and Brier scores; the NLL of sure teachers, whose errors are
            dear, needs what an error would cost.
        best: the best value likewise; by default the lowest of the values, and at most 0.
        alike: how many samples of one weight tell as much as these (Kish's effective number), where they have weights.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        For each pair of rows (i, j), i < j, the estimate of mean i minus mean j.

    Raises:
        InputError: a level that is not between 0 and 1, resamples that are no whole number from 1, or no value.
    """
    check_level(level)
    if means is not None:
        resamples = len(means)
    pairs = list(combinations(range(len(values)), 2))
    if not pairs:
        return {}
    high = np.maximum(values.max(-1), 1.0) if unseen is None else np.sqrt((unseen**2).mean(-1))
    low = np.minimum(values.min(-1), 0.0) if best is None else best.mean(-1)
    first, second = np.array(pairs).T
    spans = np.maximum(high[first] - low[second], high[second] - low[first])
    size = float(alike or values.shape[1])
    t, error = _studentised(values, first, second, spans, size, resamples, seed)
    # What was not seen is in no resample: never less than the factor of a single difference (Student's t).
    margin = max(float(np.quantile(t.max(-1), level)), _student(size, level)) * error
    difference = values.mean(-1)[first] - values.mean(-1)[second]
    return {
        pair: Estimate(float(d), float(d - m), float(d + m))
        for pair, d, m in zip(pairs, difference, margin, strict=True)
    }


def lower_bound(gain: Float64[np.ndarray, "N"], worst: float, level: float) -> Estimate:
    """The mean of paired per-sample gains with its one-sided lower bound, Student's t.

    The bound is that of one sample more, of the `worst` gain there could be. Where a teacher is all but certain, hardly
    a sample shows what a rare error costs, and without it a bound would trust what it has not seen.
    """
    bounded = np.append(gain, worst)
    error = bounded.std(ddof=1) / math.sqrt(len(bounded))
    low = bounded.mean() - stdtrit(len(bounded) - 1, level) * error
    return Estimate(float(gain.mean()), float(low), math.inf)


def unseen_margin(span: float, samples: float, level: float) -> float:
    """What of the half-width of a difference's interval is owed to samples that were not seen."""
    return _student(samples, level) * _UNSEEN * span / samples


def ranks(differences: dict[tuple[int, int], Estimate], num_rows: int) -> list[int]:
    """Rank of each row: 1 + the number of rows whose mean is lower beyond doubt. Equal ranks are ties."""
    rank = [1] * num_rows
    for (i, j), difference in differences.items():
        if difference.excludes_zero:
            rank[i if difference.value > 0 else j] += 1
    return rank


def _draws(resamples: int, num_samples: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """How often each sample is drawn, block by block of the resamples: multinomial, by counting draws."""
    check_seed(seed)
    rng = np.random.default_rng(int(seed))
    rows = max(1, _BLOCK // num_samples)
    for start in range(0, resamples, rows):
        block = slice(start, min(start + rows, resamples))
        draws = rng.integers(num_samples, size=(block.stop - start, num_samples))
        yield block, np.stack([np.bincount(row, minlength=num_samples) for row in draws])


def _studentised(
    values: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    spans: np.ndarray,
    alike: float,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """|t| of the difference of each pair of rows in every resample (resamples, pairs), and its error (pairs,)."""
    if values.size == 0:
        raise InputError(f"The values have shape {values.shape}: give at least one.")
    check_resamples(resamples)
    samples = values.shape[1]
    centred = (values - values.mean(-1, keepdims=True)).astype(np.float32)
    unseen = _UNSEEN / alike * spans
    t, error = np.zeros((resamples, len(first)), np.float32), np.empty(len(first))
    step = max(1, _BLOCK // samples)  # pairs at a time: there may be thousands
    parts = [slice(start, start + step) for start in range(0, len(first), step)]
    for block, counts in _draws(resamples, samples, seed):
        drawn = counts.astype(np.float32)
        for part in parts:
            differences = centred[first[part]] - centred[second[part]]
            squares = differences**2
            shift = drawn @ differences.T / samples
            spread = np.maximum(drawn @ squares.T / samples - shift**2, 0) / max(samples - 1, 1)
            errors = np.sqrt(spread + unseen[part] ** 2)
            error[part] = np.sqrt(squares.mean(-1, dtype=np.float64) / max(samples - 1, 1) + unseen[part] ** 2)
            np.divide(np.abs(shift), errors, out=t[block, part], where=errors > 0)
    return t, error


def _student(samples: float, level: float) -> float:
    check_level(level)
    return float(stdtrit(samples - 1, (1 + level) / 2)) if samples > 1 else math.nan


def check_resamples(resamples: float) -> None:
    if not is_number(resamples, whole=True) or resamples < 1:
        raise InputError(f"resamples is {resamples}: use a whole number from 1, and 1000 for an interval to trust.")


def check_level(level: float) -> None:
    if not is_number(level) or not 0 < level < 1:
        raise InputError(f"level is {level!r}: it must lie between 0 and 1, such as 0.95.", argument="level")


def check_seed(seed: object) -> None:
    """Refuse what no generator can begin with."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed is {seed!r}: give a whole number from 0.", argument="seed")
