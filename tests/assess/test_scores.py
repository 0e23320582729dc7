import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from preceptor.assess import (
    accuracy,
    brier,
    entropy,
    forecast,
    nll,
    power_sum,
    renyi_entropy,
    sharpness,
    top_k_mass,
)
from preceptor.errors import InputError

NUM_CLASSES = 6


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(400, NUM_CLASSES))
    return logits, rng.integers(NUM_CLASSES, size=400), forecast(logits).probs


def test_against_scikit_learn(drawn):
    logits, labels, probs = drawn
    one_hot = np.eye(NUM_CLASSES)[labels]
    np.testing.assert_allclose(nll(logits, labels).mean(), log_loss(labels, probs))
    np.testing.assert_allclose(accuracy(logits, labels).mean(), accuracy_score(labels, logits.argmax(-1)))
    np.testing.assert_allclose(brier(logits, labels), ((probs - one_hot) ** 2).sum(-1))
    per_class = [brier_score_loss(one_hot[:, c], probs[:, c]) for c in range(NUM_CLASSES)]
    np.testing.assert_allclose(brier(logits, labels).mean(), sum(per_class))


def test_entropy_against_scipy(drawn):
    logits, _, probs = drawn
    np.testing.assert_allclose(entropy(logits), scipy_entropy(probs, axis=-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.25, 4.0])
def test_power_sum_and_renyi_entropy(drawn, temperature):
    logits, _, probs = drawn
    order = 1 / temperature
    total = power_sum(logits, temperature=temperature)
    np.testing.assert_allclose(total, (probs**order).sum(-1))
    if temperature != 1:
        expected = np.log((probs**order).sum(-1)) / (1 - order)
        np.testing.assert_allclose(renyi_entropy(logits, temperature=temperature), expected)
    if temperature >= 1:
        assert ((total >= 1 - 1e-12) & (total <= NUM_CLASSES ** (1 - order) + 1e-12)).all()


def test_renyi_entropy_is_continuous_at_temperature_one(drawn):
    logits, _, _ = drawn
    np.testing.assert_allclose(renyi_entropy(logits, temperature=1 + 1e-5), entropy(logits), atol=1e-4)
    np.testing.assert_array_equal(renyi_entropy(logits, temperature=1), entropy(logits))


def test_top_k_mass(drawn):
    logits, _, probs = drawn
    np.testing.assert_allclose(top_k_mass(logits, k=2), np.sort(probs, -1)[:, -2:].sum(-1))
    np.testing.assert_allclose(top_k_mass(logits, k=NUM_CLASSES), 1)


def test_top_k_mass_estimates_top_k_accuracy():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
    expected = top_k_accuracy_score(labels, logits, k=2)
    assert top_k_mass(logits, k=2).mean() == pytest.approx(expected, abs=0.015)


def test_ends_of_the_ranges():
    certain, uniform = [[0.0, -np.inf, -np.inf, -np.inf]], np.zeros((1, 4))
    assert brier(certain, [0]) == 0
    assert brier(certain, [1]) == 2
    assert nll(certain, [1]) == np.inf
    for score, low, high in [
        (sharpness, 1, 0.25),
        (entropy, 0, np.log(4)),
        (lambda x: renyi_entropy(x, temperature=4.0), 0, np.log(4)),
        (lambda x: power_sum(x, temperature=4.0), 1, 4**0.75),
        (lambda x: top_k_mass(x, k=1), 1, 0.25),
    ]:
        np.testing.assert_allclose([score(certain)[0], score(uniform)[0]], [low, high], atol=1e-12)


def test_invariant_to_shift_and_to_permutation_of_classes(drawn):
    logits, labels, _ = drawn
    permutation = np.array([3, 1, 5, 0, 2, 4])
    permuted, moved = logits[:, permutation] + 7.0, np.argsort(permutation)[labels]
    for score in (accuracy, brier, nll):
        np.testing.assert_allclose(score(permuted, moved), score(logits, labels))
    for score in (entropy, sharpness):
        np.testing.assert_allclose(score(permuted), score(logits))


def test_a_stack_is_scored_as_its_members(drawn):
    logits, labels, _ = drawn
    stack = np.stack([logits, 2 * logits])
    own_labels = np.stack([labels, labels[::-1]])
    for score in (accuracy, brier, nll):
        np.testing.assert_allclose(score(stack, labels)[1], score(2 * logits, labels))
        np.testing.assert_allclose(score(stack, own_labels)[1], score(2 * logits, labels[::-1]))


def test_tensors_and_arrays_agree(drawn):
    logits, labels, _ = drawn
    np.testing.assert_array_equal(
        brier(torch.tensor(logits), torch.tensor(labels, dtype=torch.int32)), brier(logits, labels)
    )


def test_bad_hyper_parameters():
    logits = np.zeros((2, 3))
    for k in (0, 4):
        with pytest.raises(InputError, match=f"k is {k}.*3"):
            top_k_mass(logits, k=k)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="temperature"):
            power_sum(logits, temperature=temperature)
