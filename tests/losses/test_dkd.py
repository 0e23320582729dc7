"""DKD: oracle, the decomposition of KD, and saturated or one-hot inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, batches, random_batch, value_and_grad
from preceptor.losses import dkd, kd

weights = st.sampled_from([0.0, 0.5, 1.0, 8.0])


@FEW
@given(batches(), weights, weights, st.sampled_from([1.0, 4.0]))
def test_oracle(batch, alpha, beta, temperature):
    student, teacher, labels = batch
    options = {"alpha": alpha, "beta": beta, "temperature": temperature}
    expected = oracles.dkd(student.numpy(), teacher.numpy(), labels.numpy(), **options)
    # The oracle forms 1 - p_y, which loses digits where p_y is near 1.
    np.testing.assert_allclose(dkd(student, teacher, labels, **options), expected, rtol=1e-6, atol=1e-7)


@FEW
@given(batches(), st.sampled_from([1.0, 4.0]))
def test_kd_is_target_term_plus_weighted_other_term(batch, t):
    """KD = TCKD + (1 - p_y) NCKD, everything at temperature T; and so for the gradients."""
    student, teacher, labels = batch
    rest = 1 - (teacher / t).softmax(-1).gather(1, labels[:, None]).squeeze(1)

    def recomposed(student):
        target = dkd(student, teacher, labels, alpha=1.0, beta=0.0, temperature=t)
        others = dkd(student, teacher, labels, alpha=0.0, beta=1.0, temperature=t)
        return target + rest * others

    value, grad = value_and_grad(recomposed, student)
    expected, expected_grad = value_and_grad(kd, student, teacher, temperature=t)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-10)


def test_two_classes_have_no_other_term():
    student, teacher, labels = random_batch(5, 2)
    others, grad = value_and_grad(dkd, student, teacher, labels, alpha=0.0, beta=1.0)
    assert (others == 0).all()
    assert (grad == 0).all()
    torch.testing.assert_close(dkd(student, teacher, labels, temperature=2.0), kd(student, teacher, temperature=2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_saturated_student_still_learns_about_the_target(dtype):
    """At q_y = 1 the target term is (1 - p_y) times the student's margin, not infinite."""
    student = torch.tensor([[1e4, -1e4, -1e4]], dtype=dtype)
    teacher = torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype)
    value, grad = value_and_grad(dkd, student, teacher, torch.tensor([0]), alpha=1.0, beta=0.0, temperature=1.0)
    rest = 1 - teacher.double().softmax(-1)[0, 0].item()
    margin = student[0, 0].item() - student[0, 1].item()
    assert value.item() == pytest.approx(rest * margin, rel=1e-3)
    assert grad[0, 0].item() == pytest.approx(rest, rel=1e-2)


def test_the_other_term_does_not_see_how_large_the_target_logit_is():
    """No subtraction of the target's logit touches the others: their differences keep full precision."""
    student, teacher, _ = random_batch(1, 5, dtype=torch.float32)
    labels = torch.tensor([2])
    expected = dkd(student, teacher, labels, alpha=0.0, beta=1.0)
    student[0, 2] = 1e4
    assert torch.equal(dkd(student, teacher, labels, alpha=0.0, beta=1.0), expected)


@pytest.mark.parametrize("hot", [0, 1])
def test_a_one_hot_teacher_has_no_other_term_at_its_class(hot):
    student = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    teacher = torch.full((1, 3), -torch.inf, dtype=torch.float64)
    teacher[0, hot] = 0.0
    value, grad = value_and_grad(dkd, student, teacher, torch.tensor([0]), beta=1.0, temperature=1.0)
    q = student.softmax(-1)[0]
    expected = -q[0].log() if hot == 0 else -(1 - q[0]).log() - (q[1] / (1 - q[0])).log()
    torch.testing.assert_close(value[0], expected)
    assert grad.isfinite().all()


def test_masked_labels_may_be_anything():
    student, teacher, labels = random_batch(3, 4)
    expected = dkd(student, teacher, labels)[0]
    labels[1:] = torch.tensor([-100, 99])
    loss = dkd(student, teacher, labels, mask=torch.tensor([True, False, False]))
    torch.testing.assert_close(loss, torch.stack([expected, 0 * expected, 0 * expected]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    student, teacher, labels = random_batch(3, 4)
    torch.testing.assert_close(dkd(student, teacher, labels.to(dtype)), dkd(student, teacher, labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3), "labels are torch.float32; give integer class indices"),
        (torch.zeros(3, dtype=torch.bool), "labels are torch.bool; give integer class indices"),
        (torch.zeros(2, dtype=torch.long), r"labels have shape \(2,\); give one per example, \(3,\)"),
        (torch.zeros(3, 4, dtype=torch.long), r"labels have shape \(3, 4\)"),
        (torch.tensor([0, 4, 1]), "labels reach from 0 to 4; give class numbers from 0 to 3"),
        (torch.tensor([0, -1, 1]), "labels reach from -1 to 1; give class numbers from 0 to 3"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    student, teacher, _ = random_batch(3, 4)
    with pytest.raises(ValueError, match=message):
        dkd(student, teacher, labels)


def test_labels_on_a_device_are_not_waited_for():
    """The meta device has no values: whoever looked at one would fail."""
    student, teacher, labels = (tensor.to("meta") for tensor in random_batch(3, 4))
    assert dkd(student, teacher, labels).shape == (3,)
