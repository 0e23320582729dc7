"""TTM and WTTM, by oracle and by the identities of the paper."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.losses import kd, ttm, wttm

temperatures = st.sampled_from([0.5, 1.0, 2.0, 4.0, 10.0])


def power_sum(teacher, temperature):
    return (teacher.softmax(-1) ** (1 / temperature)).sum(-1)


@FEW
@given(batches(), temperatures)
def test_oracles(batch, temperature):
    student, teacher, _ = batch
    for loss, oracle in ((ttm, oracles.ttm), (wttm, oracles.wttm)):
        expected = oracle(student.numpy(), teacher.numpy(), temperature=temperature)
        actual = loss(student, teacher, temperature=temperature)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@FEW
@given(batches(), temperatures)
def test_gradients(batch, temperature):
    student, teacher, _ = batch
    q, p = student.softmax(-1), teacher.softmax(-1)
    _, grad = value_and_grad(ttm, student, teacher, temperature=temperature)
    torch.testing.assert_close(grad, q - (teacher / temperature).softmax(-1), rtol=1e-9, atol=1e-12)
    _, grad = value_and_grad(wttm, student, teacher, temperature=temperature)
    expected = power_sum(teacher, temperature)[:, None] * q - p ** (1 / temperature)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


@FEW
@given(batches(), st.sampled_from([2.0, 4.0, 10.0]))
def test_ttm_is_kd_plus_a_renyi_entropy_of_the_student(batch, t):
    """D(p_T, q) = T D(p_T, q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T)."""
    student, teacher, _ = batch
    p_t = (teacher / t).softmax(-1)
    renyi = (student.softmax(-1) ** (1 / t)).sum(-1).log() / (1 - 1 / t)
    entropy = torch.special.entr(p_t).sum(-1)
    expected = kd(student, teacher, temperature=t) / t + (t - 1) * (entropy - renyi)
    torch.testing.assert_close(ttm(student, teacher, temperature=t), expected, rtol=1e-9, atol=1e-10)


def test_at_temperature_one_all_three_are_plain_kl():
    student, teacher, _ = random_batch(6, 5)
    expected = kd(student, teacher, temperature=1.0)
    torch.testing.assert_close(ttm(student, teacher, temperature=1.0), expected)
    torch.testing.assert_close(wttm(student, teacher, temperature=1.0), expected)


@pytest.mark.parametrize("t", [1.25, 4.0, 10.0])
def test_weight_runs_from_one_to_its_bound(t):
    student, teacher, _ = random_batch(50, 10, scale=5.0)
    teacher[0], teacher[1] = 0.0, torch.tensor([0.0] + [-torch.inf] * 9)
    weight = wttm(student, teacher, temperature=t) / ttm(student, teacher, temperature=t)
    assert weight.min() >= 1 - 1e-12
    assert weight.max() <= 10 ** (1 - 1 / t) + 1e-12
    torch.testing.assert_close(weight[:2], torch.tensor([10 ** (1 - 1 / t), 1.0], dtype=torch.float64))


def test_the_power_transform_does_not_underflow_in_half_precision():
    teacher = torch.tensor([[100.0, 0.0, -100.0]], dtype=torch.float16)
    student = torch.zeros(1, 3, dtype=torch.float16)
    expected = oracles.wttm(student.double().numpy(), teacher.double().numpy(), temperature=10.0)
    np.testing.assert_allclose(wttm(student, teacher, temperature=10.0), expected, rtol=1e-5)
