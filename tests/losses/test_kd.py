"""KD and standardised KD."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.losses import kd, standardized_kd

temperatures = st.sampled_from([0.5, 1.0, 2.0, 4.0, 10.0])


@FEW
@given(batches(), temperatures)
def test_kd_is_the_softened_kl_times_temperature_squared(batch, temperature):
    student, teacher, _ = batch
    expected = oracles.kd(student.numpy(), teacher.numpy(), temperature=temperature)
    np.testing.assert_allclose(kd(student, teacher, temperature=temperature), expected, rtol=1e-9, atol=1e-12)


@FEW
@given(batches(), temperatures)
def test_kd_gradient_is_t_times_the_difference_of_softened_probabilities(batch, temperature):
    student, teacher, _ = batch
    _, grad = value_and_grad(kd, student, teacher, temperature=temperature)
    expected = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


@FEW
@given(batches(), temperatures)
def test_standardized_kd_is_kd_of_z_scores(batch, temperature):
    student, teacher, _ = batch
    expected = oracles.standardized_kd(student.numpy(), teacher.numpy(), temperature=temperature)
    actual = standardized_kd(student, teacher, temperature=temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_standardized_kd_ignores_shift_and_scale_of_either_side():
    student, teacher, _ = random_batch(4, 5)
    expected = standardized_kd(student, teacher)
    torch.testing.assert_close(standardized_kd(3 * student - 2, 0.5 * teacher + 7), expected, rtol=1e-6, atol=0)


def test_standardized_kd_of_a_constant_student_moves_towards_the_teacher():
    student, teacher, _ = random_batch(3, 4, dtype=torch.float32)
    for level in (0.0, 0.1, -1e4):
        value, grad = value_and_grad(standardized_kd, torch.full_like(student, level), teacher)
        torch.testing.assert_close(value, standardized_kd(0 * student, teacher))
        assert (grad.argmin(-1) == teacher.argmax(-1)).all()
        assert grad.abs().max() < 10


def test_standardized_kd_standardises_a_teacher_over_its_support():
    student, teacher, _ = random_batch(2, 4)
    teacher[:, 1] = -torch.inf
    rest = teacher[:, [0, 2, 3]]
    z = (rest - rest.mean(-1, keepdim=True)) / (rest.std(-1, keepdim=True) + 1e-7)
    p = torch.zeros(2, 4, dtype=torch.float64)
    p[:, [0, 2, 3]] = (z / 2).softmax(-1)
    z = (student - student.mean(-1, keepdim=True)) / (student.std(-1, keepdim=True) + 1e-7)
    expected = 4 * (torch.special.xlogy(p, p) - p * (z / 2).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(standardized_kd(student, teacher, temperature=2.0), expected)
