"""ITRD: both terms against slow oracles, the embedding, odd batches."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import built, call, normal
from losses.oracles import value_and_grad
from preceptor.errors import InputError
from preceptor.losses.features import ITRD
from preceptor.losses.features.itrd import correlation, mutual_information

STUDENT, TEACHER = normal(6, 4), normal(6, 4, seed=1)
WIDE = normal(6, 7, seed=1)


def slow_correlation(student, teacher, alpha):
    student, teacher = student.numpy(), teacher.numpy()
    batch, total = len(student), 0.0
    for d in range(student.shape[1]):
        c = np.corrcoef(student[:, d], teacher[:, d])[0, 1] * (batch - 1) / batch
        total += ((c - 1) ** 2) ** alpha
    return np.log2(total)


def slow_information(student, teacher):
    def cosine(x, i, j):
        return x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])

    student, teacher = student.numpy(), teacher.numpy()
    each = range(len(student))
    g_s = np.array([[cosine(student, i, j) for j in each] for i in each])
    g_st = g_s * np.array([[cosine(teacher, i, j) for j in each] for i in each])
    return ((g_s / np.trace(g_s)) ** 2).sum() - ((g_st / np.trace(g_st)) ** 2).sum()


@pytest.mark.parametrize("alpha", [0.5, 1.01, 1.5])
def test_correlation_against_the_oracle(alpha):
    expected = slow_correlation(STUDENT, TEACHER, alpha)
    assert correlation(STUDENT, TEACHER, alpha=alpha).item() == pytest.approx(expected, rel=1e-9)


def test_information_against_the_oracle():
    assert mutual_information(STUDENT, WIDE).item() == pytest.approx(slow_information(STUDENT, WIDE), rel=1e-9)


def embedded(loss, student):
    return student @ loss.embed.weight.detach().T + loss.embed.bias.detach()


def test_the_sum_embeds_for_the_second_term_only_where_widths_differ():
    loss = built(ITRD(beta_correlation=2.0, beta_information=3.0, alpha=1.2), STUDENT, WIDE)
    x = embedded(loss, STUDENT)
    expected = 2 * slow_correlation(x, WIDE, 1.2) + 3 * slow_information(x, WIDE)
    assert call(loss, STUDENT, WIDE).item() == pytest.approx(expected, rel=1e-9)
    loss = built(ITRD(), STUDENT, TEACHER)
    expected = 2 * slow_correlation(embedded(loss, STUDENT), TEACHER, 1.01) + slow_information(STUDENT, TEACHER)
    assert call(loss, STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-9)


def test_gradcheck():
    torch.autograd.gradcheck(lambda x: correlation(x, TEACHER), STUDENT.clone().requires_grad_())
    torch.autograd.gradcheck(lambda x: mutual_information(x, WIDE), STUDENT.clone().requires_grad_())
    loss = built(ITRD(), STUDENT, WIDE)
    torch.autograd.gradcheck(lambda x: call(loss, x, WIDE), STUDENT.clone().requires_grad_())


def test_a_perfect_student_is_finite():
    """Each correlation comes out as (B - 1) / B: log2 of 4 (1/6)^2."""
    value, grad = value_and_grad(correlation, 5 + 2 * TEACHER, TEACHER, alpha=1.0)
    assert value.item() == pytest.approx(np.log2(4 / 36))
    assert grad.abs().max() < 1e-14


def test_neither_scale_nor_position_of_a_feature_matters_to_the_correlation():
    scale = torch.tensor([1.0, 2.0, 0.1, 7.0]).double()
    torch.testing.assert_close(correlation(3 + scale * STUDENT, TEACHER), correlation(STUDENT, TEACHER))


@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_a_feature_that_is_constant_correlates_with_nothing(level):
    student = STUDENT.clone()
    student[:, 1] = level
    value, grad = value_and_grad(correlation, student, TEACHER, alpha=1.0)
    others = 2.0 ** slow_correlation(STUDENT[:, [0, 2, 3]], TEACHER[:, [0, 2, 3]], 1.0)
    assert value.item() == pytest.approx(np.log2(others + 1), rel=1e-9)
    assert (grad[:, 1] == 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", [correlation, mutual_information])
@pytest.mark.parametrize(
    "check",
    [
        relations.check_a_batch_of_one,
        relations.check_dead_features,
        relations.check_no_gradient_to_the_teacher,
        relations.check_order_of_samples,
    ],
)
def test_what_all_relations_promise(loss, check):
    check(loss, STUDENT, TEACHER)


def test_the_module_on_odd_batches_and_what_is_saved():
    loss = built(ITRD(), STUDENT, WIDE)
    relations.check_a_batch_of_one(lambda s, t: call(loss, s, t), STUDENT, WIDE)
    relations.check_dead_features(lambda s, t: call(loss, s, t), STUDENT, WIDE)
    half = built(ITRD(), STUDENT.float(), WIDE.float())
    for dtype in (torch.bfloat16, torch.float16):
        relations.check_half_precision(lambda s, t: call(half, s, t), STUDENT, WIDE, dtype)
    assert call(loss, normal(6, 4, 2, 2), normal(6, 5, 7)).isfinite()
    again = built(ITRD(), STUDENT, WIDE)
    torch.nn.init.zeros_(again.embed.weight)
    again.load_state_dict(loss.state_dict())
    assert call(again, STUDENT, WIDE).equal(call(loss, STUDENT, WIDE))


def test_what_is_refused():
    with pytest.raises(InputError, match=r"alpha is 0; give an order above 0"):
        ITRD(alpha=0)
    with pytest.raises(InputError, match=r"beta_information is -1"):
        ITRD(beta_information=-1)
