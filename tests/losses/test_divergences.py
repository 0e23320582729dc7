"""Reverse KL, Jensen-Shannon, skew KL and total variation: by oracle, at their ends, and by what ties them together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.errors import InputError
from preceptor.losses import jsd, kd, reverse_kl, skew_kl, tvd

temperatures = st.sampled_from([0.5, 1.0, 4.0])
betas = st.sampled_from([0.0, 1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6, 1.0])


@FEW
@given(batches(), temperatures, betas, st.booleans())
def test_oracles(batch, temperature, share, normalize):
    student, teacher, _ = batch
    cases = [(reverse_kl, oracles.reverse_kl, {}), (tvd, oracles.tvd, {})]
    cases.append((jsd, oracles.jsd, {"beta": share, "normalize": normalize}))
    if share < 1:
        cases.append((skew_kl, oracles.skew_kl, {"skew": share}))
    for loss, oracle, options in cases:
        expected = oracle(student.numpy(), teacher.numpy(), temperature=temperature, **options)
        actual = loss(student, teacher, temperature=temperature, **options)
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jsd_near_its_ends(dtype):
    """As coded it falls to 0 on the way to beta = 0, where it is the KL; divided by beta (1 - beta) it does not."""
    student, teacher, _ = random_batch(64, 100, scale=0.5, dtype=dtype)
    ends = [kd(student, teacher, temperature=1.0), reverse_kl(student, teacher)]
    for end, near, share in ((0.0, 0.01, 0.01), (1.0, 0.99, 0.01)):
        at, plain = jsd(student, teacher, beta=end), jsd(student, teacher, beta=near)
        torch.testing.assert_close(at, ends[int(end)])
        ratio = (plain / at).mean().item()
        assert ratio == pytest.approx(share, rel=0.2)
        torch.testing.assert_close(jsd(student, teacher, beta=near, normalize=True), plain / (near * (1 - near)))
        for shift, off in ((1e-3, 0.05), (1e-5, 0.002), (1e-7, 1e-4)):
            value = jsd(student, teacher, beta=abs(end - shift), normalize=True)
            torch.testing.assert_close(value, at, rtol=off, atol=0)


@pytest.mark.parametrize("shift", [1e-3, 1e-5, 1e-7])
def test_its_gradient_is_continuous_too(shift):
    student, teacher, _ = random_batch(16, 200, scale=0.5, dtype=torch.float32)
    for end in (0.0, 1.0):
        _, at = value_and_grad(jsd, student, teacher, beta=end, normalize=True)
        _, near = value_and_grad(jsd, student, teacher, beta=abs(end - shift), normalize=True)
        assert (near - at).norm() < 20 * shift * at.norm() + 1e-6


def test_what_ties_them_together():
    student, teacher, _ = random_batch(20, 7)
    torch.testing.assert_close(reverse_kl(student, teacher), kd(teacher, student, temperature=1.0))
    torch.testing.assert_close(skew_kl(student, teacher, skew=0.0), kd(student, teacher, temperature=1.0))
    torch.testing.assert_close(jsd(student, teacher, beta=0.3), jsd(teacher, student, beta=0.7))
    torch.testing.assert_close(tvd(student, teacher), tvd(teacher, student))
    assert (tvd(student, teacher) ** 2 <= reverse_kl(student, teacher) / 2).all()  # Pinsker
    far, other = torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 300.0]])
    torch.testing.assert_close(tvd(far, other), torch.ones(1))
    torch.testing.assert_close(jsd(far, other), torch.full((1,), math.log(2)))
    torch.testing.assert_close(skew_kl(far, other, skew=0.01), torch.full((1,), math.log(100)))


@pytest.mark.parametrize("loss", [reverse_kl, jsd, skew_kl, tvd])
@pytest.mark.parametrize("columns", [2, 2000])
def test_classes_that_both_rule_out(loss, columns):
    student, teacher, _ = random_batch(8, 40)
    expected, expected_grad = value_and_grad(loss, student, teacher)
    student, teacher = (torch.nn.functional.pad(each, (0, columns), value=-torch.inf) for each in (student, teacher))
    value, grad = value_and_grad(loss, student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, torch.nn.functional.pad(expected_grad, (0, columns)))


@pytest.mark.parametrize("columns", [3, 5000])
def test_a_student_of_a_class_that_its_teacher_rules_out(columns):
    student, teacher, _ = random_batch(2, columns)
    teacher[0, 0] = -torch.inf
    value, grad = value_and_grad(reverse_kl, student, teacher)
    assert value[0] == torch.inf
    assert (grad[0] == 0).all()
    expected, expected_grad = value_and_grad(reverse_kl, student[1:], teacher[1:])
    torch.testing.assert_close((value[1:], grad[1:]), (expected, expected_grad))
    for loss in (jsd, skew_kl, tvd):
        value, grad = value_and_grad(loss, student, teacher)
        expected = getattr(oracles, loss.__name__)(student.numpy(), teacher.numpy(), temperature=1.0, **DEFAULTS[loss])
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        assert grad.isfinite().all()


DEFAULTS = {jsd: {"beta": 0.5}, skew_kl: {"skew": 0.1}, tvd: {}}


@pytest.mark.parametrize("loss", [reverse_kl, jsd, skew_kl, tvd])
def test_rows_of_nan_stay_nan(loss):
    student, teacher, _ = random_batch(3, 2000, dtype=torch.float32)
    student[1] = torch.nan
    value = loss(student, teacher)
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (jsd, {"beta": -0.1}, "^beta is -0.1; give .* from 0 to 1"),
        (jsd, {"beta": 1.1}, "beta is 1.1"),
        (jsd, {"beta": math.nan}, "beta is nan"),
        (skew_kl, {"skew": 1.0}, "^skew is 1.0; give .* below 1"),
        (skew_kl, {"skew": math.nan}, "skew is nan"),
    ],
)
def test_shares_that_are_none(loss, options, message):
    with pytest.raises(InputError, match=message):
        loss(torch.zeros(1, 2), torch.zeros(1, 2), **options)
