"""CC: slow oracle through both embeddings, odd batches."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import built, call, normal
from preceptor.errors import InputError
from preceptor.losses.features import CC
from preceptor.losses.features.cc import cc

STUDENT, TEACHER = normal(5, 3), normal(5, 7, seed=1)


def make(student=STUDENT, teacher=TEACHER):
    return built(CC(dim=4), student, teacher)


def oracle(loss, student, teacher):
    def embed(layer, x):
        return x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    gap = np.abs(embed(loss.embed_student, student) - embed(loss.embed_teacher, teacher))
    return np.mean([sum(gap[i, d] * gap[i + 1, d] for d in range(4)) for i in range(len(gap) - 1)])


def test_oracle():
    loss = make()
    assert call(loss, STUDENT, TEACHER).item() == pytest.approx(oracle(loss, STUDENT, TEACHER), rel=1e-12)
    maps, tokens = normal(5, 3, 4, 4), normal(5, 10, 7)
    expected = oracle(loss, maps.mean((2, 3)), tokens.mean(1))
    assert call(loss, maps, tokens).item() == pytest.approx(expected, rel=1e-12)


def test_gradcheck():
    loss = make()
    torch.autograd.gradcheck(lambda x: call(loss, x, TEACHER), STUDENT.clone().requires_grad_())


def test_one_gap_alone_counts_nothing():
    """A product of neighbours: only where two samples in a row differ from the teacher is there a loss."""
    apart = TEACHER.clone()
    apart[2] += 5
    assert cc(apart, TEACHER) == 0
    apart[3] -= 2
    assert cc(apart, TEACHER).item() == pytest.approx(7 * 5 * 2 / 4)


def test_both_embeddings_are_trained_and_saved():
    loss = make()
    call(loss, STUDENT, TEACHER).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())
    again = make()
    torch.nn.init.zeros_(again.embed_student.weight)
    again.load_state_dict(loss.state_dict())
    assert call(again, STUDENT, TEACHER).equal(call(loss, STUDENT, TEACHER))


def test_odd_batches():
    loss = make()
    for check in (
        relations.check_a_batch_of_one,
        relations.check_dead_features,
        relations.check_no_gradient_to_the_teacher,
    ):
        check(lambda s, t: call(loss, s, t), STUDENT, TEACHER)
    loss = make(STUDENT.float(), TEACHER.float())
    for dtype in (torch.bfloat16, torch.float16):
        relations.check_half_precision(lambda s, t: call(loss, s, t), STUDENT, TEACHER, dtype)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"dim is 0; give a whole number of at least 1"):
        CC(dim=0)
