"""DIST: oracle, constants, and the mask as removal."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.losses import dist

weights = st.sampled_from([0.0, 1.0, 2.5])


@FEW
@given(batches(max_rows=6), weights, weights, st.sampled_from([1.0, 4.0]))
def test_oracle(batch, beta, gamma, temperature):
    student, teacher, _ = batch
    options = {"beta": beta, "gamma": gamma, "temperature": temperature}
    expected = oracles.dist(student.numpy(), teacher.numpy(), **options)
    # Correlations of nearly constant columns are ill-conditioned, in the oracle as well.
    np.testing.assert_allclose(dist(student, teacher, **options), expected, rtol=1e-6, atol=1e-6)


@FEW
@given(st.data())
def test_mask_removes_examples_from_both_correlations(data):
    student, teacher, _ = data.draw(batches(min_rows=2, max_rows=6))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(student), max_size=len(student))))
    value, grad = value_and_grad(dist, student.where(mask[:, None], torch.nan), teacher, mask=mask)
    if mask.any():
        expected, expected_grad = value_and_grad(dist, student[mask], teacher[mask])
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad[mask], expected_grad, rtol=1e-6, atol=1e-6)
    else:
        assert value == 0
    assert (grad[~mask] == 0).all()


def test_affine_probabilities_correlate_perfectly():
    _, teacher, _ = random_batch(5, 4)
    p = (teacher / 4).softmax(-1)
    student = 4 * (0.3 * p + 0.7 / 4).log()
    assert dist(student, teacher).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, -7.3, 1e4])
def test_a_constant_row_correlates_with_nothing(dtype, level):
    _, teacher, _ = random_batch(1, 7, dtype=dtype)
    value, grad = value_and_grad(dist, torch.full_like(teacher, level), teacher, gamma=0.0, temperature=1.0)
    assert value == 1
    assert (grad == 0).all()


def test_a_batch_of_one_has_no_correlation_along_the_batch():
    student, teacher, _ = random_batch(1, 5)
    value, grad = value_and_grad(dist, student, teacher, beta=0.0, temperature=1.0)
    assert value == 1
    assert (grad == 0).all()
    torch.testing.assert_close(dist(student[0], teacher[0]), dist(student, teacher))


def test_tiny_probabilities_correlate_as_well_as_large_ones():
    """Their squares underflow in float32, their correlation must not."""
    student, teacher, _ = random_batch(6, 3, dtype=torch.float32)
    student[:, 2] -= 60
    teacher[:, 2] -= 60
    expected = oracles.dist(student.double().numpy(), teacher.double().numpy(), temperature=1.0)
    value, grad = value_and_grad(dist, student, teacher, temperature=1.0)
    assert value.item() == pytest.approx(float(expected), rel=1e-4)
    assert grad.isfinite().all()
    assert (grad[:, 2] != 0).all()


def test_an_empty_batch_gives_zero():
    student = torch.zeros(0, 3, requires_grad=True)
    loss = dist(student, torch.zeros(0, 3))
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].shape == (0, 3)


def test_leading_dimensions_are_one_batch():
    student, teacher, _ = random_batch(2, 3, 5)
    torch.testing.assert_close(dist(student, teacher), dist(student.view(6, 5), teacher.view(6, 5)))
