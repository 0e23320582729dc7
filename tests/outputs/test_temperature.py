import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.errors import InputError
from preceptor.outputs import fit_temperature


def problem(seed, spread, examples=200, classes=5):
    """Labels drawn from softmax(logits), so that 1 is the right temperature; then logits times the spread."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(examples, classes, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return logits * spread, labels


def loss(temperature, logits, labels):
    return F.cross_entropy(logits / temperature, labels).item()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.2, 8))
def test_against_brute_force_and_derivative(seed, spread):
    logits, labels = problem(seed, spread)
    temperature = fit_temperature(logits, labels)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 301, dtype=torch.float64).tolist()
    best = min(grid, key=lambda t: loss(t, logits, labels))
    assert loss(temperature, logits, labels) <= loss(best, logits, labels) + 1e-12
    assert temperature == pytest.approx(best, rel=0.025)  # the grid's step is 2 %

    inverse = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(logits * inverse, labels).backward()
    assert inverse.grad is not None
    assert abs(inverse.grad.item()) < 1e-9 * spread


def test_calibrated_logits_keep_temperature_one():
    assert fit_temperature(*problem(0, 1.0, examples=20000)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("factor", [1e-3, 3, 100, 1e4])
def test_temperature_scales_with_the_logits(factor):
    logits, labels = problem(1, 1.0)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * fit_temperature(logits, labels))


def test_shifting_the_logits_changes_nothing():
    logits, labels = problem(2, 2.0)
    assert fit_temperature(logits + 100, labels) == pytest.approx(fit_temperature(logits, labels))


def test_bounds_where_there_is_no_minimum_inside():
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    for scale in (0.1, 1.0, 10.0):
        logits = torch.tensor([[scale, -scale], [-scale, scale]])
        assert fit_temperature(logits, right) == pytest.approx(0.05 * min(1, scale))
        assert fit_temperature(logits, wrong) == pytest.approx(20 * max(1, scale))


def test_extreme_logits():
    logits, labels = problem(3, 1.0)
    scaled = (logits * 1e4).float().requires_grad_()
    assert fit_temperature(scaled, labels) == pytest.approx(1e4 * fit_temperature(logits, labels), rel=1e-4)


def test_bad_input():
    logits, labels = problem(4, 1.0)
    with pytest.raises(InputError, match=r"no held-out examples"):
        fit_temperature(logits[:0], labels[:0])
    logits[7, 2] = torch.nan
    with pytest.raises(InputError, match=r"example 7"):
        fit_temperature(logits, labels)
    with pytest.raises(InputError, match=r"labels"):
        fit_temperature(logits, labels[:3])
