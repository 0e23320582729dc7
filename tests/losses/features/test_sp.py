"""SP: slow oracle, invariances, odd batches."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import call, normal
from losses.oracles import value_and_grad
from preceptor.errors import InputError
from preceptor.losses.features import SP
from preceptor.losses.features.sp import sp

STUDENT, TEACHER = normal(6, 3, 4, 4), normal(6, 8, 2, 2, seed=1)


def oracle(student, teacher):
    student, teacher = (x.reshape(len(x), -1).numpy() for x in (student, teacher))
    total, batch = 0.0, len(student)
    for i in range(batch):
        row = [np.array([np.dot(x[i], x[j]) for j in range(batch)]) for x in (student, teacher)]
        unit = [r / np.sqrt((r * r).sum()) for r in row]
        total += ((unit[0] - unit[1]) ** 2).sum()
    return total / batch**2


def test_oracle():
    assert sp(STUDENT, TEACHER).item() == pytest.approx(oracle(STUDENT, TEACHER), rel=1e-12)


def test_gradcheck():
    torch.autograd.gradcheck(lambda x: sp(x, TEACHER), STUDENT.clone().requires_grad_())


def test_neither_scale_nor_a_rotation_of_the_channels_matters():
    turned, _ = torch.linalg.qr(normal(32, 32, seed=5))
    torch.testing.assert_close(sp(STUDENT, 3 * TEACHER.flatten(1) @ turned), sp(STUDENT, TEACHER))
    value, grad = value_and_grad(sp, -2 * STUDENT, STUDENT)
    assert value < 1e-28
    assert grad.abs().max() < 1e-14


@pytest.mark.parametrize(
    "check",
    [
        relations.check_a_batch_of_one,
        relations.check_dead_features,
        relations.check_no_gradient_to_the_teacher,
        relations.check_order_of_samples,
    ],
)
def test_what_all_relations_promise(check):
    check(sp, STUDENT, TEACHER)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    relations.check_half_precision(sp, STUDENT, TEACHER, dtype)


def test_nothing_grows_with_batch_squared_times_width():
    student, teacher = normal(32, 4096, dtype=torch.float32), normal(32, 2048, seed=1, dtype=torch.float32)
    assert relations.largest_tensor(sp, student, teacher) <= 32 * 4096


def test_the_loss_of_layers_is_their_sum():
    features_s, features_t = {"a": STUDENT, "b": STUDENT[:, :1]}, {"c": TEACHER, "d": TEACHER[:, :2]}
    loss = SP(student=["a", "b"], teacher=["c", "d"])
    found = loss(None, None, student_features=features_s, teacher_features=features_t)
    torch.testing.assert_close(found, sp(STUDENT, TEACHER) + sp(STUDENT[:, :1], TEACHER[:, :2]))
    torch.testing.assert_close(call(SP(), STUDENT, TEACHER), sp(STUDENT, TEACHER))
    assert SP().student_taps == ("last",)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"6 samples but the teacher's of 4; give both of the same batch"):
        sp(STUDENT, TEACHER[:4])
    with pytest.raises(InputError, match=r"'SP' compares 1 features"):
        SP()(None, None, student_features={"a": STUDENT}, teacher_features={"a": TEACHER, "b": TEACHER})
