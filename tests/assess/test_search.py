"""The search for a transform: against grids, closed forms, and teachers that need none."""

import numpy as np
import pytest
import torch

from preceptor.assess import (
    FAMILIES,
    brier,
    choose,
    crossfitted,
    forecast,
    proxy_teacher,
    recalibrated,
    search_transform,
)
from preceptor.assess.families import FAMILIES as IMPLEMENTED
from preceptor.errors import InputError
from preceptor.outputs import transformed
from preceptor.recipe import Proxy, Temperature, Transform, VectorScaling


def calibrated(num_samples: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the true label distribution, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_samples, num_classes))
    probs = forecast(logits).probs
    return logits, (probs.cumsum(1) > rng.random((num_samples, 1))).argmax(1)


def mean_brier(logits: np.ndarray, labels: np.ndarray, transform: Transform | None) -> float:
    return float(brier(forecast(transformed(torch.tensor(logits), transform)), labels).mean())


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    logits, labels = calibrated(600, 4, 0)
    found = search_transform(3 * logits, labels, "temperature").transform
    grid = np.exp(np.linspace(np.log(0.5), np.log(20), 2000))
    best = min(mean_brier(3 * logits, labels, Temperature(temperature=t)) for t in grid)
    assert mean_brier(3 * logits, labels, found) <= best + 1e-5
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(3, rel=0.15)


def test_the_shared_coefficient_is_the_best_of_a_fine_grid() -> None:
    logits, labels = calibrated(600, 3, 1)
    found = search_transform(1.5 * logits, labels, "proxy").transform
    best = min(mean_brier(1.5 * logits, labels, Proxy(coefficients=(float(eps),))) for eps in np.linspace(-1, 10, 400))
    assert mean_brier(1.5 * logits, labels, found) <= best + 1e-5


def test_the_gradient_is_the_closed_form_of_one_coefficient_a_class() -> None:
    """dB/deps_c = p_c s_c (g_c - sum(s g) / sum(s)), s = q^2 / p, g = dB/dq."""
    rng = np.random.default_rng(2)
    log_p = torch.tensor(rng.normal(size=(1, 5))).log_softmax(-1)
    eps = torch.tensor(rng.uniform(-0.9, 3, size=5), requires_grad=True)
    q = IMPLEMENTED["proxy-classwise"].apply(log_p, eps).exp()
    (gradient,) = torch.autograd.grad((q - torch.eye(5, dtype=torch.float64)[2]).square().sum(), eps)
    p, q = log_p.exp(), q.detach()
    s, g = q.square() / p, 2 * (q - torch.eye(5, dtype=torch.float64)[2])
    expected = p * s * (g - (s * g).sum() / s.sum())
    torch.testing.assert_close(gradient, expected[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_leaves_the_set_where_the_proxy_is_unique_and_keeps_its_support(family: str) -> None:
    """Even where the best would lie far outside: labels that contradict a teacher which is all but certain."""
    rng = np.random.default_rng(3)
    logits = 12 * np.eye(3)[rng.integers(3, size=150)] + rng.normal(size=(150, 3))
    logits[::7, 1] = -np.inf
    transform = search_transform(logits, rng.integers(3, size=150), family).transform
    result = transformed(torch.tensor(logits), transform)
    assert torch.equal(result.isneginf(), torch.tensor(logits).isneginf())
    assert torch.allclose(result.exp().sum(-1), torch.ones(150, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_starts_from_the_transform_that_changes_nothing(family: str) -> None:
    log_p = torch.randn(4, 3, dtype=torch.float64).log_softmax(-1)
    start, _ = IMPLEMENTED[family].box(log_p)
    torch.testing.assert_close(IMPLEMENTED[family].apply(log_p, torch.tensor(start)), log_p)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_transform_does_what_was_searched(family: str) -> None:
    log_p = torch.randn(6, 3, dtype=torch.float64).log_softmax(-1)
    implemented = IMPLEMENTED[family]
    start, bounds = implemented.box(log_p)
    parameters = np.clip(start + 0.3, *np.array(bounds).T)
    stored = implemented.transform(parameters, 3)
    read = type(stored).model_validate_json(stored.model_dump_json())
    torch.testing.assert_close(
        transformed(log_p, read), implemented.apply(log_p, torch.tensor(parameters)), rtol=1e-6, atol=1e-6
    )


def test_the_gain_is_that_of_samples_not_fitted_to() -> None:
    """Many parameters on labels of pure noise: better on what they were fitted to, and not on the rest."""
    rng = np.random.default_rng(4)
    logits, labels = np.zeros((60, 6)) + 0.01 * rng.normal(size=(60, 6)), rng.integers(6, size=60)
    found = search_transform(logits, labels, "vector")
    in_sample = mean_brier(logits, labels, None) - mean_brier(logits, labels, found.transform)
    assert in_sample > 0
    assert found.gain.value < 0
    assert not found.worthwhile


def test_crossfitted_outputs_are_those_of_the_gain_and_know_nothing_of_their_own_label() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(120, 4)), rng.integers(4, size=120)
    outputs = crossfitted(logits, labels, "vector")
    gain = mean_brier(logits, labels, None) - brier(forecast(outputs), labels).mean()
    assert search_transform(logits, labels, "vector").gain.value == pytest.approx(gain, abs=1e-12)
    for sample in (0, 50, 119):
        other = labels.copy()
        other[sample] = (labels[sample] + 1) % 4
        changed = (crossfitted(logits, other, "vector") != outputs).any(-1)
        assert changed.any()
        assert not changed[sample]


def test_a_calibrated_teacher_is_left_alone_in_nine_of_ten_draws() -> None:
    draws = [
        choose({"truth": logits}, labels).transform for logits, labels in (calibrated(150, 3, s) for s in range(10))
    ]
    assert sum(transform is None for transform in draws) >= 9


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1000.0])
def test_a_temperature_is_found_whatever_the_scale_of_the_logits(scale: float) -> None:
    logits, labels = calibrated(2000, 4, 9)
    found = search_transform(scale * logits, labels, "temperature")
    assert isinstance(found.transform, Temperature)
    assert found.transform.temperature == pytest.approx(scale, rel=0.1)
    one, other = (brier(recalibrated(factor * logits, labels), labels).mean() for factor in (1.0, scale))
    assert one == pytest.approx(other, abs=1e-5)


def test_rare_errors_that_the_first_look_misses_are_found() -> None:
    """Six errors in 12,000 samples of an all but certain teacher, all where the grid does not look."""
    wrong = np.zeros(12_000, dtype=bool)
    wrong[[7, 19, 31, 3001, 5003, 9001]] = True
    logits = np.tile([30.0, 0.0], (12_000, 1))
    found = search_transform(logits, wrong.astype(int), "temperature").transform
    assert isinstance(found, Temperature)
    # The best T says 5e-4 for the other class.
    assert found.temperature == pytest.approx(30 / np.log(0.9995 / 0.0005), rel=0.15)


def test_class_wise_coefficients_repair_what_shared_ones_cannot() -> None:
    """The teacher is the one whose proxy, under known coefficients, is the truth."""
    logits, _ = calibrated(4000, 3, 5)
    known = torch.tensor([[4.0], [-0.8], [0.0]], dtype=torch.float64)
    truth = proxy_teacher(torch.tensor(logits), known).log_probs.exp().numpy()
    labels = (truth.cumsum(1) > np.random.default_rng(6).random((4000, 1))).argmax(1)
    shared, classwise = (search_transform(logits, labels, family) for family in ("proxy", "proxy-classwise"))
    assert classwise.worthwhile
    assert classwise.gain.value > shared.gain.value

    def distance(transform: Transform | None) -> float:
        return float((transformed(torch.tensor(logits), transform).exp().numpy() - truth).__pow__(2).sum(-1).mean())

    assert distance(classwise.transform) < 0.1 * distance(None)


def test_ttm_is_searched_as_its_student_sees_it() -> None:
    """At T = 2 the student of a calibrated teacher is too soft; the temperature that repairs it is 1/2."""
    logits, labels = calibrated(3000, 4, 7)
    found = search_transform(logits, labels, "temperature", temperature=2.0)
    assert isinstance(found.transform, Temperature)
    assert found.transform.temperature == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"family": "temperatur"}, "did you mean 'temperature'"),
        ({"family": "vector", "folds": 1}, "folds is 1 for 20 samples"),
        ({"family": "vector", "folds": 21}, "folds is 21 for 20 samples"),
        ({"family": "vector", "logits": np.zeros((2, 20, 3))}, "one teacher at a time"),
        ({"family": "vector", "temperature": 0.0}, "temperature is 0.0"),
        ({"family": "vector", "level": 95}, "level is 95"),
    ],
)
def test_bad_input(arguments: dict, sentence: str) -> None:
    logits = arguments.pop("logits", np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(InputError, match=sentence):
        search_transform(logits, np.arange(20) % 3, **arguments)


def test_a_vector_scaling_for_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="for 2 classes and the teacher has 3"):
        transformed(torch.zeros(1, 3), VectorScaling(scale=(1.0, 1.0), bias=(0.0, 0.0)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [30.0, 1e4, np.inf])
def test_teachers_that_are_all_but_or_quite_certain_and_sometimes_wrong(family: str, scale: float) -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(3, size=60)
    said = np.where(rng.random(60) < 0.2, (labels + 1) % 3, labels)
    logits = np.where(np.eye(3)[said] > 0, 0.0, -scale) + rng.normal(size=(60, 3))
    found = search_transform(logits, labels, family)
    assert np.isfinite(found.gain.value)
    assert mean_brier(logits, labels, found.transform) <= mean_brier(logits, labels, None) + 1e-9


def test_a_search_gives_torch_its_threads_back_and_finds_the_same_with_any_number() -> None:
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(size=(90, 3)), rng.integers(3, size=90)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(search_transform(logits, labels, "proxy-classwise"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
