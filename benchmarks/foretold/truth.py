"""The true label distribution of a data set's samples: known exactly, or from several raters."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from preceptor import assess
from preceptor.assess.distance import rater_noise


@dataclass(frozen=True, eq=False)
class Truth:
    """The true label distribution of every sample of a data set, as far as it is known.

    Args:
        probs: (N, C): the posterior itself, or the raters' frequencies; NaN where nothing is known.
        noise: (N,): unbiased estimate of the squared distance of `probs` from the truth; 0 where it is the truth, NaN
            where nothing is known.
    """

    probs: np.ndarray
    noise: np.ndarray

    @staticmethod
    def of_counts(counts: np.ndarray) -> "Truth":
        """From two ratings or more a sample, (N, C)."""
        raters, frequency = assess.rater_frequencies(counts, counts.shape)
        return Truth(frequency, rater_noise(raters, frequency))

    @staticmethod
    def exact(probs: np.ndarray) -> "Truth":
        """A known posterior (N, C)."""
        return Truth(probs, np.zeros(len(probs)))

    def after(self, count: int) -> "Truth":
        """The same, of a data set that has `count` samples of unknown truth before these."""
        unknown = np.full((count, self.probs.shape[1]), np.nan)
        return Truth(np.concatenate([unknown, self.probs]), np.concatenate([unknown[:, 0], self.noise]))

    def knows(self, index: Tensor) -> bool:
        """Whether it is known for all samples at `index`, (n,)."""
        return not np.isnan(self.noise[index.numpy()]).any()

    def distance(self, probs: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Mean squared distance, corrected for the raters' noise; probs (..., n, C), index (n,)."""
        return (((probs - self.probs[index]) ** 2).sum(-1) - self.noise[index]).mean(-1)

    def accuracy(self, probs: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Expected accuracy against a label drawn from the truth: less noisy than against one drawn label."""
        chosen = probs.argmax(-1)
        return np.take_along_axis(np.broadcast_to(self.probs[index], probs.shape), chosen[..., None], -1)[..., 0].mean(
            -1
        )
