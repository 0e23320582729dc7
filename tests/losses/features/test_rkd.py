"""RKD: slow oracle, invariances, odd batches, memory."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import call, normal
from losses.oracles import value_and_grad
from preceptor.errors import InputError
from preceptor.losses.features import RKD
from preceptor.losses.features import rkd as module
from preceptor.losses.features.rkd import rkd

STUDENT, TEACHER = normal(5, 3), normal(5, 7, seed=1)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def oracle(student, teacher, distance_weight=25.0, angle_weight=50.0):
    student, teacher = student.numpy(), teacher.numpy()
    batch = len(student)

    def distances(x):
        found = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return found / found[found > 0].mean()

    def angle(x, at, one, other):
        a, b = x[one] - x[at], x[other] - x[at]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    ds, dt = distances(student), distances(teacher)
    pairs = [huber(ds[i, j] - dt[i, j]) for i in range(batch) for j in range(batch)]
    triplets = [
        huber(angle(student, i, j, k) - angle(teacher, i, j, k))
        for i in range(batch)
        for j in range(batch)
        for k in range(batch)
    ]
    return distance_weight * np.mean(pairs) + angle_weight * np.mean(triplets)


@pytest.mark.parametrize("options", [{}, {"angle_weight": 0.0}, {"distance_weight": 0.0}, {"distance_weight": 2.0}])
def test_oracle(options):
    assert rkd(STUDENT, TEACHER, **options).item() == pytest.approx(oracle(STUDENT, TEACHER, **options), rel=1e-9)


def test_gaps_beyond_one_count_linearly():
    far = normal(5, 3) * torch.tensor([1.0, 1.0, 1.0, 1.0, 60.0]).unsqueeze(1)
    assert rkd(far, TEACHER).item() == pytest.approx(oracle(far, TEACHER), rel=1e-9)


def test_gradcheck():
    torch.autograd.gradcheck(lambda x: rkd(x, TEACHER), STUDENT.clone().requires_grad_())


def test_anchors_some_at_a_time_are_all_anchors(monkeypatch):
    value, grad = value_and_grad(rkd, STUDENT, TEACHER)
    monkeypatch.setattr(module, "_AT_ONCE", 2 * 5 * 7)
    again, again_grad = value_and_grad(rkd, STUDENT, TEACHER)
    torch.testing.assert_close(again, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(again_grad, grad, rtol=1e-10, atol=1e-12)


def test_neither_scale_nor_position_nor_direction_matters():
    turned, _ = torch.linalg.qr(normal(7, 7, seed=5))
    torch.testing.assert_close(rkd(STUDENT, 10 + 3 * TEACHER @ turned), rkd(STUDENT, TEACHER))
    assert rkd(7 - 0.1 * STUDENT, STUDENT) < 1e-20


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
    check(rkd, STUDENT, TEACHER)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    relations.check_half_precision(rkd, STUDENT, TEACHER, dtype)


def test_a_large_common_offset_costs_no_digits():
    """As of features behind a bias: inner products of them would leave nothing of their distances."""
    student = normal(5, 3, dtype=torch.float32)
    exact = rkd(student.double(), TEACHER)
    assert rkd((student + 512), TEACHER.float()).item() == pytest.approx(exact.item(), rel=1e-3)


def test_nothing_grows_with_batch_squared_times_width():
    student, teacher = normal(64, 2048, dtype=torch.float32), normal(64, 512, seed=1, dtype=torch.float32)
    assert relations.largest_tensor(rkd, student, teacher) <= module._AT_ONCE < 64 * 64 * 512


def test_the_class_looks_at_pooled_features():
    maps, tokens = normal(5, 3, 4, 4), normal(5, 10, 7, seed=1)
    expected = rkd(maps.mean((2, 3)), tokens.mean(1), angle_weight=0.0)
    torch.testing.assert_close(call(RKD(angle_weight=0.0), maps, tokens), expected)
    assert RKD().teacher_taps == ("penultimate",)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"angle_weight is -1; give a weight of at least 0"):
        RKD(angle_weight=-1)
