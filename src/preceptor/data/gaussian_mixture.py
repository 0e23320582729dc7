"""Gaussian mixtures: classification whose true label distribution is known exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import log_softmax

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Classes with Gaussian inputs of one isotropic variance.

    Args:
        means: (C, D).
        variance: of each input dimension within a class.
        prior: (C,), of sum 1.
    """

    means: Float64[np.ndarray, "classes dimensions"]
    variance: float
    prior: Float64[np.ndarray, "classes"]

    @staticmethod
    def draw(
        *,
        num_classes: int = 10,
        dimensions: int = 30,
        values: Sequence[float] = (-1.0, 0.0, 1.0),
        variance: float = 6.0,
        imbalance: float = 1.0,
        seed: int = 0,
    ) -> "GaussianMixture":
        """A mixture whose means are drawn entry by entry from `values`.

        The defaults are the toy of arXiv 2407.18041, taken over from Ren et al. (ICLR 2022). With `imbalance` r the
        prior falls geometrically from the first class to the last, which is r times rarer.
        """
        if num_classes < 2 or dimensions < 1 or variance <= 0 or imbalance < 1:
            raise InputError(
                f"a mixture of {num_classes} classes in {dimensions} dimensions with variance {variance} and imbalance "
                f"{imbalance} cannot be; give at least 2, at least 1, above 0 and at least 1"
            )
        means = np.random.default_rng(seed).choice(np.asarray(values, dtype=np.float64), (num_classes, dimensions))
        prior = imbalance ** -np.linspace(0, 1, num_classes)
        return GaussianMixture(means, variance, prior / prior.sum())

    def sample(self, num_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (N, D) in float32 and labels (N,) in int64."""
        rng = np.random.default_rng([seed, 1])
        labels = rng.choice(len(self.prior), num_samples, p=self.prior)
        noise = rng.normal(size=(num_samples, self.means.shape[1])) * np.sqrt(self.variance)
        return (self.means[labels] + noise).astype(np.float32), labels

    def posterior(self, inputs: np.ndarray) -> Float64[np.ndarray, "N classes"]:
        """The true label distribution p*(x) of each input (N, D)."""
        x = np.asarray(inputs, dtype=np.float64)
        # ||x||^2 is common to all classes.
        squares = (self.means**2).sum(1) - 2 * x @ self.means.T
        return np.exp(log_softmax(np.log(self.prior) - squares / (2 * self.variance), axis=-1))


def gaussian_mixture(
    *,
    num_samples: int = 16_000,
    num_classes: int = 10,
    dimensions: int = 30,
    values: Sequence[float] = (-1.0, 0.0, 1.0),
    variance: float = 6.0,
    imbalance: float = 1.0,
    seed: int = 0,
) -> Data:
    """A sample of a Gaussian mixture, for experiments where the truth must be known.

    Inputs are float32 (dimensions,); `test` is None. The options but the first are those of
    `GaussianMixture.draw`, whose `posterior` gives the true label distribution.

    >>> data = gaussian_mixture(num_samples=100, num_classes=4)
    >>> len(data.train), data.input_shape, data.num_classes
    (100, (30,), 4)
    """
    mixture = GaussianMixture.draw(
        num_classes=num_classes,
        dimensions=dimensions,
        values=values,
        variance=variance,
        imbalance=imbalance,
        seed=seed,
    )
    inputs, labels = mixture.sample(num_samples, seed)
    train = ArrayDataset(torch.from_numpy(inputs), labels, num_classes=num_classes)
    return Data(train, None, tuple(map(str, range(num_classes))))
