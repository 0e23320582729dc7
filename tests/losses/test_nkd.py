"""NKD: oracle, its two terms, and the teacher without other classes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.errors import InputError
from preceptor.losses import dkd, nkd


@FEW
@given(batches(), st.sampled_from([0.0, 1.0, 3.5]), st.sampled_from([1.0, 3.0, 40.0]))
def test_oracle(batch, gamma, temperature):
    student, teacher, labels = batch
    options = {"gamma": gamma, "temperature": temperature}
    expected = oracles.nkd(student.numpy(), teacher.numpy(), labels.numpy(), **options)
    np.testing.assert_allclose(nkd(student, teacher, labels, **options), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float64, 3.0), (torch.float32, 3.0), (torch.float32, 100.0)])
def test_gradient_in_closed_form_also_near_the_teacher(dtype, temperature):
    noise, teacher, labels = random_batch(6, 5, dtype=dtype)
    student = teacher + 0.01 * noise
    _, grad = value_and_grad(nkd, student, teacher, labels, gamma=1.5, temperature=temperature)
    z, v, hot = student.double().numpy(), teacher.double().numpy(), np.eye(5)[labels]
    of_label = (softmax(v, -1) * hot).sum(-1, keepdims=True) * (softmax(z, -1) - hot)
    q, p = ((1 - hot) * softmax(x / temperature, -1) for x in (z, v))
    of_others = temperature * (q / q.sum(-1, keepdims=True) - p / p.sum(-1, keepdims=True))
    np.testing.assert_allclose(grad, of_label + 1.5 * of_others, rtol=1e-4, atol=2e-6)


def test_the_second_term_is_that_of_dkd_up_to_what_no_student_changes():
    student, teacher, labels = random_batch(6, 5)
    options = {"temperature": 2.0}
    _, ours = value_and_grad(nkd, student, teacher, labels, gamma=1.0, **options)
    _, first = value_and_grad(nkd, student, teacher, labels, gamma=0.0, **options)
    _, theirs = value_and_grad(dkd, student, teacher, labels, alpha=0.0, beta=1.0, **options)
    torch.testing.assert_close(ours - first, theirs)


def test_a_certain_teacher_gives_the_cross_entropy():
    student, _, labels = random_batch(6, 5)
    teacher = torch.full_like(student, -torch.inf).scatter(1, labels[:, None], 0.0)
    expected = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    torch.testing.assert_close(nkd(student, teacher, labels), expected)


def test_a_teacher_that_rules_the_label_out_asks_nothing_for_it():
    student, teacher, labels = random_batch(6, 5)
    teacher = teacher.scatter(1, labels[:, None], -torch.inf)
    torch.testing.assert_close(nkd(student, teacher, labels, gamma=0.0), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize(("labels", "said"), [(torch.ones(2), "labels are torch.float32"), (torch.tensor(3), "shape")])
def test_bad_labels(labels, said):
    with pytest.raises(InputError, match=said):
        nkd(torch.zeros(2, 3), torch.zeros(2, 3), labels)
    with pytest.raises(InputError, match="from 0 to 3; give class numbers from 0 to 2"):
        nkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]))
