"""WSLD: oracle, and the weight that lets no gradient through."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.errors import InputError
from preceptor.losses import wsld


@FEW
@given(batches(), st.sampled_from([1.0, 2.0, 40.0]))
def test_oracle(batch, temperature):
    student, teacher, labels = batch
    expected = oracles.wsld(student.numpy(), teacher.numpy(), labels.numpy(), temperature=temperature)
    np.testing.assert_allclose(wsld(student, teacher, labels, temperature=temperature), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float64, 2.0), (torch.float32, 2.0), (torch.float32, 100.0)])
def test_the_gradient_is_that_of_kd_times_the_weight(dtype, temperature):
    noise, teacher, labels = random_batch(6, 5, dtype=dtype)
    student = teacher + 0.1 * noise
    _, grad = value_and_grad(wsld, student, teacher, labels, temperature=temperature)
    z, v = student.double().numpy(), teacher.double().numpy()
    ratio = np.array([log_softmax(a)[y] / log_softmax(b)[y] for a, b, y in zip(z, v, labels, strict=True)])
    expected = (
        (1 - np.exp(-ratio))[:, None] * temperature * (softmax(z / temperature, -1) - softmax(v / temperature, -1))
    )
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-6)


def test_a_student_that_is_sure_of_the_label_has_nothing_to_learn():
    student, teacher = torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.5]])
    value, grad = value_and_grad(wsld, student, teacher, torch.tensor([0]))
    assert value == 0
    assert (grad == 0).all()


def test_a_teacher_that_is_sure_of_the_label_counts_in_full():
    student, _, labels = random_batch(4, 3)
    teacher = torch.full_like(student, -torch.inf).scatter(1, labels[:, None], 0.0)
    expected = 4 * torch.nn.functional.cross_entropy(student / 2, labels, reduction="none")
    torch.testing.assert_close(wsld(student, teacher, labels), expected)


def test_labels_are_checked():
    with pytest.raises(InputError, match="give integer class indices"):
        wsld(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))
