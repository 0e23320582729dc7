"""How samples were come by: which of them belong together, and how much each stands for."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from preceptor.assess.forecasts import Array, first_row, missing, to_numpy
from preceptor.assess.intervals import check_seed
from preceptor.errors import InputError, is_number

__all__ = ["Answers", "Sampling"]

FEW_GROUPS = 30
"""With fewer of them, intervals by group are rough."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """How N samples were come by; made by `Sampling.of`, which checks it.

    Attributes:
        groups: of each sample, the number of its group, from 0 to G - 1; None where each stands alone.
        weights: how much each stands for, of mean 1; None where all count alike.
    """

    groups: Int64[np.ndarray, "N"] | None = None
    weights: Float64[np.ndarray, "N"] | None = None

    @classmethod
    def of(cls, num_samples: int, groups: Array | None = None, weights: Array | None = None) -> "Sampling":
        """What a user hands in: anything that names the groups, and weights of 0 or more.

        Raises:
            InputError: another number of them, a group that is not named (NaN), a single group, or weights that are
                negative, not finite or all 0.
        """
        if groups is not None:
            names = to_numpy(groups)
            _check_length("groups", names, num_samples)
            if (lacking := missing(names)).any():
                place = first_row(lacking)
                raise InputError(f"The group at row {place} is {names[place]}: name a group for every sample.")
            _, groups = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
            if groups.max() == 0:
                raise InputError("All samples are of one group: give at least two, or leave groups out.")
        if weights is not None:
            weights = to_numpy(weights)
            _check_length("weights", weights, num_samples)
            if weights.dtype.kind not in "biuf":
                raise InputError(
                    f"The weights hold {weights.dtype} values: give numbers of 0 or more.", argument="weights"
                )
            weights = weights.astype(np.float64)
            wrong = ~(np.isfinite(weights) & (weights >= 0))
            if wrong.any() or not weights.any():
                place = first_row(wrong) if wrong.any() else 0
                raise InputError(
                    f"The weight at row {place} is {weights[place]}: give finite weights of 0 or more, not 0 to all."
                )
            # Else the sum of the largest would be infinite, and the mean of the smallest 0.
            shares = weights / weights.max()
            weights = shares / shares.mean()
        return cls(groups, weights)  # type: ignore[arg-type]

    @property
    def plain(self) -> bool:
        """Whether each sample stands for itself alone."""
        return self.groups is None and self.weights is None

    def mean(self, values: Float64[np.ndarray, "N"]) -> float:
        """The mean over samples, by their weights."""
        return float(values.mean() if self.weights is None else np.average(values, weights=self.weights))

    def only(self, rows: np.ndarray) -> "Sampling":
        """Some of the samples, bool (N,)."""
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        if self.weights is None:
            return Sampling(groups)
        return Sampling(groups, self.weights[rows] / self.weights[rows].mean())

    def units(self, values: Float64[np.ndarray, "rows N"]) -> Float64[np.ndarray, "rows G"]:
        """One value for each group (or sample), whose plain mean is the weighted mean over samples.

        What is resampled are groups. The mean over samples is then a quotient of two sums over groups; its
        linearisation, as survey statistics use it, is a mean over groups: theta + (sum - theta * size) / mean size.
        """
        if self.plain:
            return values
        weights = np.ones(values.shape[1]) if self.weights is None else self.weights
        mean = np.average(values, axis=1, weights=weights)[:, None]
        if self.groups is None:
            return mean + weights * (values - mean)
        groups = self.groups.max() + 1
        sums = np.stack([np.bincount(self.groups, row, groups) for row in weights * (values - mean)])
        return mean + sums / (weights.sum() / groups)

    def alike(self, units: Float64[np.ndarray, "G"]) -> float | None:
        """How many independent 0s and 1s tell as much of their mean as these `units` do; None of plain samples."""
        if self.plain:
            return None
        mean, spread = float(units.mean()), float(units.var(ddof=1)) / len(units)
        seen = mean * (1 - mean) / spread if spread > 0 and 0 < mean < 1 else math.inf
        # Where all are alike there is no spread to see, and where a few weigh most they may be alike by chance: no more
        # is known than of as many as there are units, in Kish's count of unequal ones. Groups may tell more than that.
        return seen if self.groups is not None and seen < math.inf else min(seen, self.effective(len(units)))

    def effective(self, count: int) -> float:
        """How many units of one weight would give a mean as uncertain as these `count` (Kish 1965)."""
        if self.weights is None:
            return float(count)
        held = self.weights if self.groups is None else np.bincount(self.groups, self.weights)
        return float(held.sum() ** 2 / (held**2).sum())

    def folds(self, num_samples: int, folds: int, seed: int) -> list[Int64[np.ndarray, "n"]]:
        """The samples in parts of about one size, at random; no part has a share of another's group.

        Raises:
            InputError: fewer than two folds, or more than there are samples or groups.
        """
        units = num_samples if self.groups is None else int(self.groups.max()) + 1
        check_seed(seed)
        if not is_number(folds, whole=True) or not 2 <= folds <= units:
            counted = f"{units} {'samples' if self.groups is None else 'groups'}"
            counted += "" if self.weights is None else " of weight above 0"
            raise InputError(
                f"folds is {folds} for {counted}: use at least 2 and at most one for each.",
                argument="folds",
            )
        parts = np.array_split(np.random.default_rng(int(seed)).permutation(units), int(folds))
        if self.groups is not None:
            parts = [np.flatnonzero(np.isin(self.groups, part)) for part in parts]
        return parts

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of intervals should know."""
        found = []
        if self.groups is not None and self.groups.max() + 1 < FEW_GROUPS:
            found.append(
                f"There are {self.groups.max() + 1} groups: intervals by group are rough with fewer than {FEW_GROUPS}."
            )
        if self.weights is not None:
            effective = self.weights.sum() ** 2 / (self.weights**2).sum()
            found.append(f"Under their weights, {len(self.weights)} samples tell as much as {effective:.0f} alike.")
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Answers:
    """What is known of n samples, to score forecasts by: a label (n,) each or a distribution (n, C), and weights (n,).

    The Brier score against a distribution is its mean over labels drawn from it.
    """

    target: np.ndarray
    weights: Float64[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: np.ndarray | slice) -> "Answers":
        return Answers(self.target[rows], None if self.weights is None else self.weights[rows])

    def at(self, probs: np.ndarray) -> np.ndarray:
        """The probability of the answer (..., n), of probabilities (..., n, C)."""
        if self.target.ndim == 2:
            return (probs * self.target).sum(-1)
        return np.take_along_axis(probs, np.broadcast_to(self.target, probs.shape[:-1])[..., None], -1)[..., 0]

    def brier(self, probs: np.ndarray) -> np.ndarray:
        """The Brier score of each sample."""
        return np.einsum("...c,...c->...", probs, probs) - 2 * self.at(probs) + 1

    def mean(self, values: np.ndarray) -> float:
        """The mean over samples, by their weights."""
        return float(values.mean() if self.weights is None else np.average(values, weights=self.weights))


def _check_length(what: str, values: np.ndarray, num_samples: int) -> None:
    if values.shape != (num_samples,):
        raise InputError(
            f"The {what} have shape {values.shape}: hand in one for each of {num_samples} samples.", argument=what
        )
