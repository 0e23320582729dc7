"""MLKD: oracle, the shares below the median, and the mask as removal."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import oracles
from losses.oracles import FEW, random_batch, value_and_grad
from preceptor.errors import InputError
from preceptor.losses import kd, mlkd


@FEW
@given(st.integers(1, 7), st.integers(2, 6), st.integers(0, 99), st.sampled_from([(1.0,), (4.0, 3.0, 20.0)]))
def test_oracle(rows, classes, seed, temperatures):
    student, teacher, _ = random_batch(rows, classes, seed=seed)
    options = {"temperatures": temperatures, "twice": temperatures[:1]}
    expected = oracles.mlkd(student.numpy(), teacher.numpy(), **options)
    torch.testing.assert_close(mlkd(student, teacher, **options), torch.tensor(expected, dtype=torch.float64))


def test_the_whole_loss_of_two_views_needs_kd_of_the_strong_one_beside_it():
    """As the released code adds it up, term by term, with its weight of 0.9."""
    weak, weak_teacher, _ = random_batch(5, 4)
    strong, strong_teacher, _ = random_batch(5, 4, seed=1)
    of_weak = oracles.mlkd(weak.numpy(), weak_teacher.numpy(), twice=())
    of_kd = [oracles.kd(strong.numpy(), strong_teacher.numpy(), temperature=t).mean() for t in (4.0, 3.0, 5.0)]
    of_kd += [oracles.kd(weak.numpy(), weak_teacher.numpy(), temperature=t).mean() for t in (2.0, 6.0)]
    released = 0.9 * of_weak + 0.9 * sum(of_kd)
    ours = mlkd(weak, weak_teacher) + sum(kd(strong, strong_teacher, temperature=t).mean() for t in (4.0, 3.0, 5.0))
    np.testing.assert_allclose(0.9 * ours, released)


@FEW
@given(st.data())
def test_mask_removes_examples(data):
    student, teacher, _ = random_batch(6, 4, seed=data.draw(st.integers(0, 99)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    dirty = student.where(mask[:, None], torch.nan), teacher.where(mask[:, None], torch.inf)
    value, grad = value_and_grad(mlkd, *dirty, mask=mask)
    if mask.any():
        expected, expected_grad = value_and_grad(mlkd, student[mask], teacher[mask])
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad[mask], expected_grad)
    else:
        assert value == 0
    assert (grad[~mask] == 0).all()


def test_of_equally_sure_teachers_none_is_surer_than_the_median():
    """Whatever the rounding of a row whose classes are in another order."""
    logits = torch.tensor([0.1, 0.7, -0.3, 0.9, 0.2])
    generator = torch.Generator().manual_seed(0)
    teacher = torch.stack([logits[torch.randperm(5, generator=generator)] for _ in range(64)])
    student, _, _ = random_batch(64, 5, dtype=torch.float32)
    of_all = mlkd(student, teacher, temperatures=[1.0], twice=[])
    probs = [x.double().softmax(-1) for x in (student, teacher)]
    rows, classes = ([m(x) for x in probs] for m in (lambda x: x @ x.T, lambda x: x.T @ x))
    expected = kd(*(p.log() for p in probs), temperature=1.0).mean() + (rows[0] - rows[1]).square().sum() / 64
    expected += 3 / 5 * (classes[0] - classes[1]).square().sum() / 5
    torch.testing.assert_close(of_all.double(), expected, rtol=1e-4, atol=1e-6)


def test_leading_dimensions_are_one_batch_and_an_empty_one_gives_zero():
    student, teacher, _ = random_batch(2, 3, 5)
    torch.testing.assert_close(mlkd(student, teacher), mlkd(student.view(6, 5), teacher.view(6, 5)))
    value, grad = value_and_grad(mlkd, torch.zeros(0, 3), torch.zeros(0, 3))
    assert value == 0
    assert grad.shape == (0, 3)


def test_temperatures_are_checked():
    with pytest.raises(InputError, match="temperatures of mlkd are none"):
        mlkd(torch.zeros(2, 3), torch.zeros(2, 3), temperatures=[])
    with pytest.raises(InputError, match="temperature is -1"):
        mlkd(torch.zeros(2, 3), torch.zeros(2, 3), twice=[-1.0])


def test_autocast_rounds_no_product():
    student, teacher, _ = random_batch(6, 5, dtype=torch.float32)
    expected, expected_grad = value_and_grad(mlkd, student, teacher)
    leaf = student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mlkd(leaf, teacher)
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], expected_grad)
