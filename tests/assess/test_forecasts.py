"""Coercion and its refusals; each message must name the thing, the value and the remedy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from preceptor.assess import brier, forecast
from preceptor.errors import InputError


def test_forecast_is_log_softmax_up_to_extreme_logits():
    logits = np.random.default_rng(0).uniform(-1e4, 1e4, (50, 7))
    predictions = forecast(logits)
    np.testing.assert_allclose(predictions.log_probs, log_softmax(logits, -1), atol=1e-9)
    np.testing.assert_allclose(predictions.probs.sum(-1), 1)
    assert forecast(predictions) is predictions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_and_arrays_agree(dtype):
    logits = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = forecast(logits.double().numpy())
    np.testing.assert_array_equal(forecast(logits.requires_grad_()).probs, expected.probs)


def test_log_probabilities_and_probabilities_are_the_same_forecast():
    logits = np.random.default_rng(0).normal(size=(30, 5))
    log_probs = log_softmax(logits, -1)
    for other in (forecast(log_probs), forecast(np.exp(log_probs), probabilities=True)):
        np.testing.assert_allclose(other.log_probs, log_probs)


def test_zero_probabilities_are_allowed():
    predictions = forecast([[1.0, 0.0]], probabilities=True)
    assert predictions.log_probs.tolist() == [[0.0, -np.inf]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_row_is_named(bad):
    logits = np.zeros((9, 3))
    logits[[4, 6], 1] = bad
    with pytest.raises(InputError, match=rf"row 4 \(its maximum is {bad}; such rows: 2\)"):
        forecast(logits)


def test_row_without_any_mass_is_refused():
    with pytest.raises(InputError, match=r"row 0 .*-inf"):
        forecast(np.full((1, 3), -np.inf))


def test_probabilities_handed_in_as_logits():
    with pytest.raises(InputError, match=r"look like probabilities.*probabilities=True"):
        forecast(np.full((4, 3), 1 / 3, dtype=np.float16))


@pytest.mark.parametrize("decimals", [2, 3])
def test_rounded_probabilities_handed_in_as_logits(decimals):
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=40).round(decimals)
    with pytest.raises(InputError, match="look like probabilities"):
        forecast(probs)


def test_probabilities_in_bfloat16():
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    probs = logits.bfloat16().softmax(-1)
    assert (probs.double().sum(-1) - 1).abs().max() > 1e-3
    with pytest.raises(InputError, match="look like probabilities"):
        forecast(probs)
    read = forecast(probs, probabilities=True).probs
    np.testing.assert_allclose(read, logits.double().softmax(-1), rtol=0.05)
    np.testing.assert_allclose(read.sum(-1), 1)


def test_logits_handed_in_as_probabilities():
    with pytest.raises(InputError, match=r"row 1 \(its sum is 2.*without probabilities=True"):
        forecast([[0.5, 0.5], [1.0, 1.0]], probabilities=True)
    with pytest.raises(InputError, match=r"its minimum -0.5"):
        forecast([[1.5, -0.5]], probabilities=True)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (0, 3)])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match="two classes"):
        forecast(np.zeros(shape))


def test_wrong_type():
    with pytest.raises(InputError, match="real numbers"):
        forecast([["a", "b"]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "missing"),
        ([0, 1], r"shape \(2,\)"),
        ([0, None, 1], "row 1 is None: use class indices"),
        (["a", "b", "c"], "class indices"),
        ([0, -1, 1], "row 1 is -1"),
        ([0, 1, 2], "row 2 is 2: labels are whole numbers from 0 to 1, as there are 2 classes"),
        ([0, 0.5, 1], "row 1 is 0.5"),
        ([0, 1, np.nan], "row 2 is nan"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(InputError, match=message):
        brier(np.zeros((3, 2)), labels)


def test_whole_floats_and_booleans_are_labels():
    logits = np.array([[1.0, 0.5], [0.0, 2.0]])
    expected = brier(logits, [0, 1]).tolist()
    assert brier(logits, [0.0, 1.0]).tolist() == expected
    assert brier(logits, torch.tensor([False, True])).tolist() == expected


def test_rows_of_unlike_lengths():
    with pytest.raises(InputError, match="unlike lengths"):
        forecast([[0.0, 1.0], [0.0]])


def test_probabilities_of_which_some_rows_are_broken() -> None:
    probs = forecast(np.random.default_rng(0).normal(size=(40, 3))).probs.copy()
    probs[7] = 0
    with pytest.raises(InputError, match=r"look like probabilities .* and 39 of 40 rows, not row 7, sums to about 1"):
        forecast(probs)
    with pytest.raises(InputError, match=r"look like percentages .* divide them by 100"):
        forecast((100 * probs).round(1))


def test_logits_that_are_nowhere_negative_are_logits() -> None:
    logits = np.random.default_rng(0).gamma(1.0, size=(200, 10))  # as after a ReLU
    assert np.allclose(forecast(logits).probs, softmax(logits, -1))
