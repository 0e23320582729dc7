"""The choice of teacher, mixture and transform."""

import itertools
import json

import numpy as np
import pytest
import torch

from preceptor.assess import brier, choose, compare, forecast, mixture_weights, search_transform
from preceptor.errors import InputError
from preceptor.outputs import average_probabilities, transformed

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
    assert {step.name: step.taken for step in choice.steps}["mixture"]


def test_one_good_teacher_is_taken_as_it_is() -> None:
    logits, labels = calibrated(1000, 3, 3)
    choice = choose({"truth": logits, "sure": 5 * logits}, labels)
    assert choice.single == "truth"
    assert choice.weights == {"truth": 1.0}
    assert choice.transform is None
    assert choice.brier[0] == choice.brier[1]
    said = choice.log_probs({"truth": torch.tensor(logits)})
    torch.testing.assert_close(said, torch.tensor(logits).log_softmax(-1))  # and not the logits as they came


@pytest.mark.parametrize(("loss", "temperature", "kind"), [("kd", None, "temperature"), ("ttm", 4.0, None)])
def test_a_teacher_that_is_only_too_sure_is_better_than_a_calibrated_poor_one(loss, temperature, kind) -> None:
    """Its Brier score is the higher one; four times too sharp, TTM's own temperature of 4 makes it the truth."""
    logits, labels = calibrated(3000, 3, 5)
    noisy = logits + 0.7 * np.random.default_rng(6).normal(size=logits.shape)
    teachers = {"sure": 4 * logits, "noisy": noisy}
    assert brier(forecast(teachers["noisy"]), labels).mean() < brier(forecast(teachers["sure"]), labels).mean()
    families = ["temperature", "vector"]
    choice = choose(teachers, labels, loss=loss, temperature=temperature, families=families)
    assert choice.weights == {"sure": 1.0}
    assert (choice.transform.kind if choice.transform else None) == kind
    best = compare(teachers, labels, loss=loss, temperature=temperature).teachers[0].scores["brier"].value
    assert choice.brier[1] < best + 1e-3


def test_the_score_of_the_choice_is_that_of_new_samples() -> None:
    """Few samples and many classes: on its own samples, a transform of many parameters looks far better than it is."""
    logits, labels = calibrated(20_000, 10, 8)
    sure = 3 * (logits + 0.5 * np.random.default_rng(9).normal(size=logits.shape))
    choice = choose({"sure": sure[:200]}, labels[:200])
    new = brier(forecast(choice.log_probs({"sure": torch.tensor(sure[200:])})), labels[200:]).mean()
    assert choice.brier[1] == pytest.approx(new, abs=0.05)
    assert choice.brier[0] == pytest.approx(brier(forecast(sure[:200]), labels[:200]).mean())
    gain = next(step.gain.value for step in choice.steps if step.name == choice.transform.kind)
    assert choice.brier[0] - choice.brier[1] == pytest.approx(gain)


def test_of_two_transforms_that_do_as_well_the_simple_one_is_taken() -> None:
    logits, labels = calibrated(3000, 4, 10)
    families = ["temperature", "vector", "proxy-classwise"]
    choice = choose({"sure": 3 * logits}, labels, families=families)
    gains = {step.name: step.gain for step in choice.steps}
    assert gains["vector"].low > 0
    assert choice.transform.kind == "temperature"
    biased = choose({"biased": 3 * logits + np.array([2.0, -2.0, 0.0, 0.0])}, labels, families=families)
    assert biased.transform.kind == "vector"


def test_what_is_taken_lowers_the_score_of_new_samples() -> None:
    logits, labels = calibrated(6000, 4, 4)
    wrong = 2.5 * logits + np.array([1.0, -1.0, 0.0, 0.0])
    choice = choose({"wrong": wrong[:3000]}, labels[:3000])
    assert choice.transform is not None
    before = brier(forecast(wrong[3000:]), labels[3000:]).mean()
    after = brier(forecast(choice.log_probs({"wrong": torch.tensor(wrong[3000:])})), labels[3000:]).mean()
    assert after < before - 0.02


def test_teachers_that_are_alike_share_what_one_of_them_would_get() -> None:
    """Sixty copies get a sixtieth each: none of them is small, though each weight is."""
    logits, labels = calibrated(600, 3, 8)
    rng = np.random.default_rng(0)
    alike = np.stack([forecast(logits + 1e-4 * rng.normal(size=logits.shape)).probs for _ in range(60)])
    poor = forecast(6 * rng.normal(size=logits.shape)).probs
    weights = mixture_weights(np.concatenate([alike, poor[None]]), labels)
    two = mixture_weights(np.stack([alike[0], poor]), labels)
    assert weights[-1] == pytest.approx(two[-1], abs=0.02)
    assert ((weights == 0) | (weights >= 0.02)).all()


@pytest.mark.parametrize("mix", [True, False])
def test_the_bound_of_the_transform_allows_for_the_labels_that_chose_the_teacher(mix: bool) -> None:
    """Of the transform of a mixture of many, or of the best of many, on few samples: against its gain on new ones."""
    above = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        logits, labels = calibrated(3150, 3, seed)
        teachers = {str(k): logits + 1.5 * rng.normal(size=logits.shape) for k in range(20)}
        few = {name: rows[:150] for name, rows in teachers.items()}
        choice = choose(few, labels[:150], families=["temperature"], mix=mix)
        weights = list(choice.weights.values())
        known = average_probabilities([torch.tensor(few[name]) for name in choice.weights], weights)
        base = average_probabilities([torch.tensor(teachers[name][150:]) for name in choice.weights], weights)
        found = search_transform(known, labels[:150], "temperature").transform
        real = brier(forecast(base), labels[150:]) - brier(forecast(transformed(base, found)), labels[150:])
        above.append(choice.steps[-1].gain.low > real.mean())
    assert sum(above) <= 3


@pytest.mark.parametrize(("top", "num_samples"), [(0.999, 500), (0.98, 150)])
def test_a_confident_calibrated_teacher_is_left_alone_in_at_least_90_of_100_draws(top: float, num_samples: int) -> None:
    """It makes hardly an error on so few samples, and its being surer still would go unpunished."""
    taken = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sure = np.clip(1 - (1 - top) * rng.exponential(size=num_samples), 0.5, 1 - 1e-9)
        logits, labels = np.stack([np.log(sure), np.log1p(-sure)], axis=1), rng.random(num_samples) > sure
        taken += choose({"truth": logits}, labels, families=["temperature"]).transform is not None
    assert taken <= 10


def test_ptloss_has_coefficients_where_a_proxy_was_chosen() -> None:
    logits, labels = calibrated(1500, 3, 5)
    proxies = ["proxy", "proxy-classwise"]
    assert choose({"unsure": logits / 2}, labels, loss="ptloss", families=proxies).coefficients is not None
    assert choose({"truth": logits}, labels, loss="ptloss", families=proxies).coefficients is None
    choice = choose({"unsure": logits / 2}, labels, loss="ptloss")
    assert choice.transform is not None
    assert (choice.transform.kind, choice.coefficients) == ("temperature", None)


def test_the_choice_is_plain_data() -> None:
    logits, labels = calibrated(500, 3, 6)
    written = json.loads(
        json.dumps(choose({"a": 4 * logits}, labels, families=["temperature"]).to_dict(), allow_nan=False)
    )
    assert written["transform"]["kind"] == "temperature"
    assert written["steps"][0]["taken"]


def test_print_shows_what_was_tried() -> None:
    logits, labels = calibrated(500, 3, 6)
    choice = choose({"a[b]": 4 * logits}, labels, families=["temperature"])
    assert "Taken: 1.00 a[b], under temperature" in " ".join(str(choice).split())


@pytest.mark.parametrize(
    ("teachers", "sentence"),
    [
        ({}, "There is no teacher"),
        ({"a": np.zeros((10, 3)), "b": np.zeros((11, 3))}, r"have shape \(11, 3\) but those of 'a' \(10, 3\)"),
        ({"a": np.full((10, 3), np.nan)}, "teacher 'a' are not finite in row 0"),
        ({"a": np.zeros((10, 11))}, "10 samples for 11 classes"),
    ],
)
def test_bad_input(teachers: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        choose(teachers, np.zeros(10, dtype=int))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "TTM", "temperature": 4.0}, "The loss 'TTM' has no known optimum"),
        ({"loss": "ttm"}, "no optimum without its temperature"),
        ({"loss": "ttm", "temperature": -2.0}, "temperature is -2"),
        ({"loss": "kd", "temperature": float("nan")}, "temperature is nan"),
        ({"families": ["temprature"]}, "no family 'temprature' of transforms: did you mean 'temperature'"),
        ({"families": "temperature"}, "give a list"),
        ({"level": 95}, "level is 95"),
        ({"folds": 1}, "folds is 1"),
    ],
)
def test_bad_options(options: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        choose({"a": 2 * np.eye(3)[np.arange(12) % 3]}, np.arange(12) % 3, **options)
