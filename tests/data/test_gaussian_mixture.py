"""Gaussian mixtures: the posterior against scipy's densities, labels against the posterior."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from preceptor.data.gaussian_mixture import GaussianMixture, gaussian_mixture
from preceptor.errors import InputError


def test_the_posterior_is_bayes_rule_on_scipys_densities() -> None:
    mixture = GaussianMixture.draw(num_classes=4, dimensions=3, variance=2.0, imbalance=5.0, seed=3)
    inputs, _ = mixture.sample(50, seed=1)
    densities = [multivariate_normal(mean, 2.0).pdf(inputs) for mean in mixture.means]
    joint = mixture.prior * np.stack(densities, 1)
    np.testing.assert_allclose(mixture.posterior(inputs), joint / joint.sum(1, keepdims=True), rtol=1e-9)


def test_labels_are_drawn_from_the_posterior() -> None:
    mixture = GaussianMixture.draw(num_classes=3, dimensions=4, seed=0)
    inputs, labels = mixture.sample(40_000, seed=2)
    probs = mixture.posterior(inputs)
    # With labels from p*, E[1{y = c} - p*_c] = 0 wherever one looks.
    for confident in (probs.max(1) > 0.6, probs.max(1) <= 0.6):
        gap = (np.eye(3)[labels] - probs)[confident].mean(0)
        assert np.abs(gap).max() < 4 * 0.5 / np.sqrt(confident.sum())


def test_imbalance_is_the_ratio_of_the_commonest_class_to_the_rarest() -> None:
    prior = GaussianMixture.draw(num_classes=5, imbalance=20.0).prior
    assert prior[0] / prior[-1] == pytest.approx(20)
    assert prior.sum() == pytest.approx(1)


def test_the_same_seed_gives_the_same_data() -> None:
    one, other = (gaussian_mixture(num_samples=20, seed=4).train for _ in range(2))
    assert all((a[0] == b[0]).all() and a[1] == b[1] for a, b in zip(one, other, strict=True))


def test_an_impossible_mixture_is_refused() -> None:
    with pytest.raises(InputError, match=r"imbalance 0\.5 cannot be"):
        GaussianMixture.draw(imbalance=0.5)
