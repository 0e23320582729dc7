"""MFT: oracle, and what the correction leaves and what it gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from losses import oracles
from losses.oracles import FEW, random_batch, value_and_grad
from preceptor.errors import InputError
from preceptor.losses import kd, mft
from preceptor.losses.mft import _corrected


@FEW
@given(st.integers(0, 99), st.sampled_from([0.0, 0.2, 0.9, 1.0]), st.sampled_from([1.0, 3.0, 40.0]))
def test_oracle(seed, threshold, temperature):
    student, teacher, labels = random_batch(6, 5, seed=seed)
    options = {"threshold": threshold, "temperature": temperature}
    expected = oracles.mft(student.numpy(), teacher.numpy(), labels.numpy(), **options)
    np.testing.assert_allclose(mft(student, teacher, labels, **options), expected, rtol=1e-7, atol=1e-12)


def test_the_label_leads_by_the_threshold_or_rises_by_it():
    _, teacher, labels = random_batch(32, 5)
    log_p = teacher.log_softmax(-1)
    found = _corrected(log_p, labels[:, None], 0.2).exp()
    for p, c, y in zip(log_p.exp().numpy(), found.numpy(), labels.tolist(), strict=True):
        assert c.sum() == pytest.approx(1)
        if p.argmax() != y:
            assert c[y] - np.delete(c, y).max() == pytest.approx(0.2, abs=1e-6)
        else:
            assert c[y] == pytest.approx(min(p[y] + 0.2, 1), abs=1e-6)
        others = np.delete(p, y), np.delete(c, y)
        np.testing.assert_allclose(*(x / x.sum() for x in others), atol=1e-6)


def test_gradient_in_closed_form():
    student, teacher, labels = random_batch(6, 5, dtype=torch.float32)
    _, grad = value_and_grad(mft, student, teacher, labels, temperature=2.0)
    target = oracles.corrected(teacher.double().numpy(), labels.numpy(), 0.2, 2.0)
    np.testing.assert_allclose(grad, 2 * (softmax(student.double().numpy() / 2, -1) - target), rtol=1e-4, atol=1e-5)


def test_a_teacher_that_is_right_stays_as_it_is_at_threshold_zero():
    student, teacher, _ = random_batch(6, 5)
    torch.testing.assert_close(
        mft(student, teacher, teacher.argmax(-1), threshold=0.0), kd(student, teacher, temperature=1.0)
    )


def test_options_are_checked():
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="give a number from 0 to 1"):
            mft(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2).long(), threshold=threshold)
