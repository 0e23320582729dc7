"""The choice of teacher, mixture and transform."""

import itertools
import json

import numpy as np
import pytest
import torch

from preceptor.assess import brier, choose, forecast, mixture_weights
from preceptor.errors import InputError

from .test_search import calibrated


def test_mixture_weights_are_the_best_on_a_fine_grid_of_the_simplex() -> None:
    rng = np.random.default_rng(0)
    truth = forecast(2 * rng.normal(size=(400, 3)))
    labels = (truth.probs.cumsum(1) > rng.random((400, 1))).argmax(1)
    probs = np.stack([forecast(truth.log_probs + rng.normal(size=(400, 3))).probs for _ in range(3)])

    def score(weights: np.ndarray) -> float:
        return float(brier(forecast(np.einsum("k,knc->nc", weights, probs), probabilities=True), labels).mean())

    steps = np.linspace(0, 1, 51)
    grid = [np.array([a, b, 1 - a - b]) for a, b in itertools.product(steps, steps) if a + b <= 1]
    assert score(mixture_weights(probs, labels)) <= min(score(w.clip(0)) for w in grid) + 1e-9


def test_two_halves_of_the_truth_are_mixed_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    logits, labels = calibrated(3000, 3, 2)
    teachers = {name: logits + 1.5 * rng.normal(size=logits.shape) for name in ("one", "other")}
    choice = choose(teachers | {"noise": 9 * rng.normal(size=logits.shape)}, labels)
    assert choice.weights["one"] == pytest.approx(choice.weights["other"], abs=0.15)
    assert choice.weights.get("noise", 0.0) < 0.1
    assert sum(choice.weights.values()) == pytest.approx(1)
    assert choice.steps[0].taken


def test_one_good_teacher_is_taken_as_it_is() -> None:
    logits, labels = calibrated(1000, 3, 3)
    choice = choose({"truth": logits, "sure": 5 * logits}, labels)
    assert choice.single == "truth"
    assert choice.weights == {"truth": 1.0}
    assert choice.transform is None
    assert choice.brier[0] == choice.brier[1]
    torch.testing.assert_close(
        choice.log_probs({"truth": torch.tensor(logits)}).softmax(-1), torch.tensor(logits).softmax(-1)
    )


def test_what_is_taken_lowers_the_score_of_new_samples() -> None:
    logits, labels = calibrated(6000, 4, 4)
    wrong = 2.5 * logits + np.array([1.0, -1.0, 0.0, 0.0])
    choice = choose({"wrong": wrong[:3000]}, labels[:3000])
    assert choice.transform is not None
    before = brier(forecast(wrong[3000:]), labels[3000:]).mean()
    after = brier(forecast(choice.log_probs({"wrong": torch.tensor(wrong[3000:])})), labels[3000:]).mean()
    assert after < before - 0.02


def test_ptloss_searches_its_coefficients_only() -> None:
    logits, labels = calibrated(1500, 3, 5)
    choice = choose({"unsure": logits / 2}, labels, loss="ptloss")
    assert {step.name for step in choice.steps} == {"proxy", "proxy-classwise", "proxy-5", "proxy-5-classwise"}
    assert choice.coefficients is not None
    assert choose({"truth": logits}, labels, loss="ptloss").coefficients is None


def test_the_choice_is_plain_data() -> None:
    logits, labels = calibrated(500, 3, 6)
    written = json.loads(
        json.dumps(choose({"a": 4 * logits}, labels, families=["temperature"]).to_dict(), allow_nan=False)
    )
    assert written["transform"]["kind"] == "temperature"
    assert written["steps"][0]["taken"]


@pytest.mark.parametrize(
    ("teachers", "sentence"),
    [
        ({}, "There is no teacher"),
        ({"a": np.zeros((10, 3)), "b": np.zeros((11, 3))}, r"have shape \(11, 3\) but those of 'a' \(10, 3\)"),
        ({"a": np.full((10, 3), np.nan)}, "teacher 'a' are not finite in row 0"),
    ],
)
def test_bad_input(teachers: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        choose(teachers, np.zeros(10, dtype=int))
