"""PTLoss: oracle, closed-form gradient, and the losses it contains."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.losses import ptloss, ttm


@st.composite
def coefficients(draw, classes):
    degree = draw(st.integers(1, 5))
    shape = (classes, degree) if draw(st.booleans()) else (degree,)
    numbers = st.floats(-3, 3, allow_subnormal=False)
    count = int(np.prod(shape))
    return torch.tensor(draw(st.lists(numbers, min_size=count, max_size=count)), dtype=torch.float64).view(shape)


@FEW
@given(st.data())
def test_oracle_and_gradient(data):
    student, teacher, _ = data.draw(batches())
    eps = data.draw(coefficients(student.shape[-1]))
    value, grad = value_and_grad(ptloss, student, teacher, coefficients=eps)
    expected = oracles.ptloss(student.numpy(), teacher.numpy(), coefficients=eps.numpy())
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)

    q, p = student.softmax(-1), teacher.softmax(-1)
    s = sum(m * torch.atleast_2d(eps)[:, m - 1] * (1 - q) ** (m - 1) for m in range(1, eps.shape[-1] + 1))
    a = p * (1 + q * s)
    torch.testing.assert_close(grad, a.sum(-1, keepdim=True) * q - a, rtol=1e-9, atol=1e-12)


@FEW
@given(batches())
def test_zero_coefficients_give_kl(batch):
    student, teacher, _ = batch
    expected = ttm(student, teacher, temperature=1.0)
    torch.testing.assert_close(ptloss(student, teacher, coefficients=[0.0, 0.0]), expected)


def test_one_row_of_coefficients_per_class_repeats_the_shared_ones():
    student, teacher, _ = random_batch(4, 5)
    shared = torch.tensor([0.5, -0.2], dtype=torch.float64)
    expected = ptloss(student, teacher, coefficients=shared)
    torch.testing.assert_close(ptloss(student, teacher, coefficients=shared.expand(5, 2)), expected)
    torch.testing.assert_close(ptloss(student, teacher, coefficients=[[0.5, -0.2]] * 5), expected)


@pytest.mark.parametrize("power", [1, 2])
def test_focal_loss_is_a_perturbed_loss(power):
    """-(1 - q)^g log q on a one-hot teacher: eps_m = -1/m up to g, then 1/(m - g) - 1/m."""
    student, _, labels = random_batch(6, 4, scale=1.0)
    teacher = torch.full((6, 4), -torch.inf, dtype=torch.float64).scatter(1, labels[:, None], 0.0)
    m = torch.arange(1, 2001, dtype=torch.float64)
    eps = torch.where(m <= power, -1 / m, 1 / (m - power).clamp(min=1) - 1 / m)
    log_q = student.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    expected = -((1 - log_q.exp()) ** power) * log_q
    torch.testing.assert_close(ptloss(student, teacher, coefficients=eps), expected, rtol=1e-9, atol=0)


def test_poly1_is_a_perturbed_loss():
    student, _, labels = random_batch(6, 4)
    teacher = torch.full((6, 4), -torch.inf, dtype=torch.float64).scatter(1, labels[:, None], 0.0)
    cross_entropy = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    expected = cross_entropy + 2.0 * (1 - (-cross_entropy).exp())
    torch.testing.assert_close(ptloss(student, teacher, coefficients=[2.0]), expected)


def test_coefficients_keep_their_gradient_but_not_their_dtype():
    student, teacher, _ = random_batch(3, 4, dtype=torch.float32)
    eps = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = ptloss(student, teacher, coefficients=eps)
    assert loss.dtype == torch.float32
    (grad,) = torch.autograd.grad(loss.sum(), eps)
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = torch.stack([(p * (1 - q) ** m).sum() for m in (1, 2)]).double()
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (4, 2), (5, 0), (1, 5, 2)])
def test_coefficients_of_another_shape_are_refused(shape):
    student, teacher, _ = random_batch(3, 5)
    with pytest.raises(ValueError, match=r"coefficients have shape .*give \(M,\) .* or \(5, M\)"):
        ptloss(student, teacher, coefficients=torch.zeros(shape))
