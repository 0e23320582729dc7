"""PKT: slow oracle, invariances, odd batches."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import call, normal
from preceptor.losses.features import PKT
from preceptor.losses.features.pkt import pkt

STUDENT, TEACHER = normal(6, 3), normal(6, 7, seed=1)


def oracle(student, teacher, eps=1e-7):
    def probable(x, i):
        cosines = [x[i] @ other / (np.linalg.norm(x[i]) + eps) / (np.linalg.norm(other) + eps) for other in x]
        kernel = (np.array(cosines) + 1) / 2
        return kernel / kernel.sum()

    student, teacher = student.numpy(), teacher.numpy()
    total = 0.0
    for i in range(len(student)):
        for s, t in zip(probable(student, i), probable(teacher, i), strict=True):
            total += t * np.log((t + eps) / (s + eps))
    return total / len(student) ** 2


def test_oracle():
    assert pkt(STUDENT, TEACHER).item() == pytest.approx(oracle(STUDENT, TEACHER), rel=1e-9)


def test_gradcheck():
    torch.autograd.gradcheck(lambda x: pkt(x, TEACHER), STUDENT.clone().requires_grad_())


def test_only_directions_matter_and_the_same_ones_give_nothing():
    lengths = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).double().unsqueeze(1)
    turned, _ = torch.linalg.qr(normal(7, 7, seed=5))
    torch.testing.assert_close(pkt(STUDENT, lengths * TEACHER @ turned), pkt(STUDENT, TEACHER), rtol=1e-5, atol=0)
    assert abs(pkt(-3 * STUDENT, STUDENT).item()) < 1e-8
    assert pkt(STUDENT, TEACHER) > 1e-3


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
    check(pkt, STUDENT, TEACHER)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    relations.check_half_precision(pkt, STUDENT, TEACHER, dtype)


def test_nothing_grows_with_batch_squared_times_width():
    student, teacher = normal(32, 4096, dtype=torch.float32), normal(32, 2048, seed=1, dtype=torch.float32)
    assert relations.largest_tensor(pkt, student, teacher) <= 32 * 4096


def test_the_class_looks_at_pooled_features():
    maps, tokens = normal(5, 3, 4, 4), normal(5, 10, 7, seed=1)
    torch.testing.assert_close(call(PKT(), maps, tokens), pkt(maps.mean((2, 3)), tokens.mean(1)))
