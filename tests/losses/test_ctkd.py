"""CTKD: the gradient of kd for the student, the reversed one for the temperature, and the ramp."""

import math

import numpy as np
import pytest
import torch

from losses import oracles
from losses.oracles import random_batch
from preceptor.errors import InputError
from preceptor.losses import CTKD, kd


def gradients(loss, student, teacher, mask=None):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, mask=mask)
    return value.detach(), *torch.autograd.grad(value.sum(), (student, loss.t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_student_gradient_are_those_of_kd_at_its_temperature(dtype):
    student, teacher, _ = random_batch(5, 6, dtype=dtype)
    loss = CTKD(start=2.0, span=7.0)
    loss.t.data.fill_(-0.3)
    temperature = 2.0 + 7.0 / (1 + math.exp(0.3))
    value, grad, _ = gradients(loss, student, teacher)
    exact = student.double().numpy(), teacher.double().numpy()
    np.testing.assert_allclose(value, oracles.kd(*exact, temperature=temperature), rtol=1e-5)
    leaf = student.clone().requires_grad_()
    (expected,) = torch.autograd.grad(kd(leaf, teacher, temperature=temperature).sum(), leaf)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)
    assert value.dtype == dtype


@pytest.mark.parametrize("epoch", [0, 4, 9, 50])
def test_the_temperature_gets_the_reversed_gradient_by_the_strength_of_the_epoch(epoch):
    student, teacher, _ = random_batch(5, 6)
    teacher[0, 2] = -torch.inf
    loss = CTKD(strength=0.5).double()
    loss.start_epoch(epoch, 240)

    def total(t):
        temperature = 1 + 20 / (1 + np.exp(-t))
        return oracles.kd(student.numpy(), teacher.numpy(), temperature=temperature).sum()

    slope = (total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5
    strength = 0.5 * (1 - math.cos(math.pi * min(epoch + 1, 10) / 10)) / 2
    _, _, grad = gradients(loss, student, teacher)
    assert grad.item() == pytest.approx(-strength * slope, rel=1e-5)


def test_descent_raises_the_loss_and_no_strength_keeps_the_temperature():
    student, teacher, _ = random_batch(8, 5)
    for strength, moves in ((1.0, True), (0.0, False)):
        loss = CTKD(strength=strength).double()
        loss.start_epoch(10, 20)
        before, _, grad = gradients(loss, student, teacher)
        loss.t.data -= 1e-4 * grad.sign()
        after, _, _ = gradients(loss, student, teacher)
        assert (after.sum() > before.sum()) == moves


def test_masked_examples_say_nothing():
    student, teacher, _ = random_batch(4, 5, dtype=torch.float32)
    mask = torch.tensor([True, False, True, False])
    loss = CTKD()
    expected = gradients(loss, student[mask], teacher[mask])
    dirty = student.where(mask[:, None], torch.nan), teacher.where(mask[:, None], -torch.inf)
    value, grad, of_t = gradients(loss, *dirty, mask=mask)
    for found, wanted in zip((value[mask], grad[mask], of_t), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert (value[~mask] == 0).all()
    assert (grad[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_a_certain_teacher(dtype):
    student, _, _ = random_batch(4, 5, scale=10.0, dtype=dtype)
    teacher = torch.full_like(student, -torch.inf)
    teacher[:, 0] = 0
    value, grad, of_t = gradients(CTKD(), student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert of_t.isfinite()


def test_its_state_goes_round():
    loss, other = CTKD(), CTKD()
    loss.t.data.fill_(0.25)
    loss.start_epoch(3, 10)
    other.load_state_dict(loss.state_dict())
    assert other.temperature.equal(loss.temperature)
    assert other.strength.equal(loss.strength)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": 0.0}, "start of CTKD is 0.0; give a positive number"),
        ({"ramp": 0}, "ramp of CTKD is 0"),
        ({"span": -1.0}, "span of CTKD is -1.0; give 0 or more"),
        ({"strength": math.inf}, "strength of CTKD is inf"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said):
        CTKD(**options)


def test_a_stack_is_refused():
    loss = CTKD()
    loss.bind(model=torch.nn.Linear(2, 2), num_samples=4, num_classes=2)
    with pytest.raises(InputError, match="one by one, or take kd"):
        loss.bind(stack=(3,))
