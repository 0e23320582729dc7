"""AB: oracle, and the epochs it has for itself."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.features.maps import built, features, value
from preceptor.errors import InputError
from preceptor.losses.features import AB, FSP
from preceptor.losses.features.ab import ab


def oracle(student, teacher, margin=1.0):
    """The cases as the released code counts them, one element after the other."""
    found = np.zeros(len(student))
    for place in np.ndindex(*student.shape):
        s, t = student[place], teacher[place]
        if s > -margin and t <= 0:
            found[place[0]] += (s + margin) ** 2
        if s <= margin and t > 0:
            found[place[0]] += (s - margin) ** 2
    return found


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_oracle(margin):
    student, teacher = features((3, 4, 3, 2))["layer0"], features((3, 4, 3, 2), seed=1)["layer0"]
    teacher[0, 0, 0, 0] = 0
    np.testing.assert_allclose(ab(student, teacher, margin=margin), oracle(student.numpy(), teacher.numpy(), margin))


def test_only_the_sign_of_the_teacher_counts_so_that_a_relu_before_it_does_no_harm():
    student, teacher = features((3, 4, 3, 3))["layer0"], features((3, 4, 3, 3), seed=1)["layer0"]
    torch.testing.assert_close(ab(student, 7 * teacher.relu()), ab(student, teacher))


def test_later_stages_weigh_more():
    student, teacher = features(*[(3, 2, 3, 3)] * 3), features(*[(3, 2, 3, 3)] * 3, seed=1)
    each = [oracle(*(side[f"layer{n}"].numpy() for side in (student, teacher))) for n in range(3)]
    loss = built(AB(), student, teacher)
    assert all(isinstance(connector, nn.Identity) for connector in loss.connectors)
    expected = 0.003 * (each[0] / 4 + each[1] / 2 + each[2])
    np.testing.assert_allclose(value(loss, student, teacher), expected)


def test_unlike_shapes_pass_a_convolution_and_batch_norm():
    student, teacher = features((3, 2, 6, 6)), features((3, 4, 3, 3), seed=1)
    loss = built(AB(), student, teacher)
    mapped = loss.connectors[0](student["layer0"])
    assert (mapped < 0).any()  # no ReLU behind it
    assert loss.connectors[0].conv.kernel_size == (3, 3)
    expected = 0.003 * oracle(mapped.detach().numpy(), teacher["layer0"].numpy())
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected)


@pytest.mark.parametrize("loss", [AB, FSP])
def test_the_first_epochs_are_its_own_and_then_it_is_zero(loss):
    student, teacher = features(*[(3, 2, 3, 3)] * 2), features(*[(3, 2, 3, 3)] * 2, seed=1)
    criterion = built(loss(init_epochs=2), student, teacher)
    found = []
    for epoch in range(4):
        criterion.start_epoch(epoch, 4)
        found.append((criterion.alone, bool((value(criterion, student, teacher) > 0).all())))
    assert found == [(True, True), (True, True), (False, False), (False, False)]
    assert (value(criterion, student, teacher) == torch.zeros(3)).all()


@pytest.mark.parametrize("loss", [AB, FSP])
def test_without_such_epochs_it_stands_beside_the_labels(loss):
    student, teacher = features(*[(3, 2, 3, 3)] * 2), features(*[(3, 2, 3, 3)] * 2, seed=1)
    criterion = built(loss(init_epochs=0), student, teacher)
    criterion.start_epoch(3, 4)
    assert not criterion.alone
    assert (value(criterion, student, teacher) > 0).all()


@pytest.mark.parametrize("loss", [AB, FSP])
def test_the_labels_have_some_epochs(loss):
    with pytest.raises(InputError, match=f"init_epochs of the loss '{loss.__name__}' are 30 of the 30 epochs"):
        loss().start_epoch(0, 30)
    with pytest.raises(InputError, match="init_epochs is -1; give a whole number of at least 0"):
        loss(init_epochs=-1)


@pytest.mark.parametrize("margin", [-1, float("inf"), float("nan")])
def test_a_margin_is_a_number(margin):
    with pytest.raises(InputError, match=r"margin is .*; give a number from 0 on"):
        AB(margin=margin)
