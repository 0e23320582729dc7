import numpy as np
import pytest
import torch

from preceptor.assess import brier, forecast, rater_distance, rater_distance_difference, squared_distance
from preceptor.errors import InputError

NUM_SAMPLES, NUM_CLASSES = 60, 4


@pytest.fixture(scope="module")
def known():
    """A teacher, a rival and the truth they miss: three tables of probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(NUM_SAMPLES, NUM_CLASSES))
    noisy = [logits + scale * rng.normal(size=logits.shape) for scale in (0.0, 0.5, 0.8)]
    truth, teacher, rival = (forecast(x).probs for x in noisy)
    return teacher, rival, truth


def assert_unbiased(estimates, expected):
    """Mean of independent estimates within four standard errors of what it should be."""
    error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - expected) < 4 * error


def test_squared_distance(known):
    teacher, _, truth = known
    np.testing.assert_allclose(squared_distance(teacher, truth), np.linalg.norm(teacher - truth, axis=-1) ** 2)
    stack = np.stack([teacher, truth])
    np.testing.assert_allclose(squared_distance(stack, truth)[1], 0, atol=1e-30)
    tensors = squared_distance(torch.tensor(teacher), torch.tensor(truth))
    np.testing.assert_array_equal(tensors, squared_distance(teacher, truth))


@pytest.mark.parametrize("raters", [2, 5, "mixed"])
def test_rater_distance_is_unbiased(known, raters):
    teacher, _, truth = known
    rng = np.random.default_rng(1)
    number = rng.integers(2, 9, size=NUM_SAMPLES) if raters == "mixed" else raters
    found = [rater_distance(teacher, rng.multinomial(number, truth)).mean() for _ in range(3000)]
    expected = squared_distance(teacher, truth).mean()
    assert_unbiased(found, expected)
    # The bound has teeth: uncorrected distances are far outside it.
    uncorrected = [squared_distance(teacher, rng.multinomial(2, truth) / 2).mean() for _ in range(100)]
    assert np.mean(uncorrected) > expected + 0.2


def test_difference_is_unbiased_with_one_rater(known):
    teacher, rival, truth = known
    rng = np.random.default_rng(2)
    found = [
        rater_distance_difference(teacher, rival, rng.multinomial(1, truth, size=NUM_SAMPLES)).mean()
        for _ in range(3000)
    ]
    assert_unbiased(found, (squared_distance(teacher, truth) - squared_distance(rival, truth)).mean())


def test_difference_with_one_rater_is_that_of_brier_scores(known):
    teacher, rival, truth = known
    counts = np.random.default_rng(3).multinomial(1, truth)
    labels = counts.argmax(-1)
    expected = brier(np.log(teacher), labels) - brier(np.log(rival), labels)
    np.testing.assert_allclose(rater_distance_difference(teacher, rival, counts), expected)


def test_difference_is_that_of_distances(known):
    teacher, rival, truth = known
    counts = np.random.default_rng(4).multinomial(3, truth)
    expected = rater_distance(teacher, counts) - rater_distance(rival, counts)
    np.testing.assert_allclose(rater_distance_difference(teacher, rival, counts), expected)


def test_brier_score_is_distance_plus_what_no_teacher_can_help(known):
    """E||q - e_y||^2 = E||q - p*||^2 + E[1 - ||p*||^2], the identity that the package rests on."""
    teacher, _, truth = known
    rng = np.random.default_rng(5)
    found = [brier(np.log(teacher), rng.multinomial(1, truth).argmax(-1)).mean() for _ in range(4000)]
    assert_unbiased(found, squared_distance(teacher, truth).mean() + (1 - (truth**2).sum(-1)).mean())


def test_single_rater_is_refused_for_a_distance():
    with pytest.raises(InputError, match=r"Row 1 of the counts has one rating.*rater_distance_difference"):
        rater_distance([[0.5, 0.5]] * 2, [[1, 1], [1, 0]])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 1], [0, 0]], "Row 1 of the counts is empty"),
        ([[1, 1], [3, -1]], r"Row 1 .*\[3, -1\]"),
        ([[0.5, 0.5], [1, 1]], "Row 0 .*whole numbers.*squared_distance"),
        ([[1, 1], [np.nan, 1]], "Row 1"),
        ([[1, 1]], r"shape \(1, 2\) where \(2, 2\)"),
    ],
)
def test_bad_counts(counts, message):
    with pytest.raises(InputError, match=message):
        rater_distance([[0.5, 0.5]] * 2, counts)


def test_bad_probabilities():
    with pytest.raises(InputError, match="teacher's probabilities are no distribution in row 0"):
        squared_distance([[2.0, -1.0]], [[1.0, 0.0]])
    with pytest.raises(InputError, match="true label distributions are no distribution"):
        squared_distance([[1.0, 0.0]], [[1.0, 1.0]])
    with pytest.raises(InputError, match="same samples and classes"):
        squared_distance([[1.0, 0.0]], [[1.0, 0.0, 0.0]])
    with pytest.raises(InputError, match="second teacher"):
        rater_distance_difference([[1.0, 0.0]], [[1.0, 0.0]] * 2, [[1, 0]])
