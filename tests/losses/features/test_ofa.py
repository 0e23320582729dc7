"""OFA-KD: oracle, the sum over stages, and projectors of maps and of tokens."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from losses.features.maps import features
from losses.oracles import random_batch
from preceptor.errors import InputError
from preceptor.losses.features import OFA
from preceptor.losses.features._projectors import MapProjector, Merge, TokenProjector
from preceptor.losses.features.base import Setting
from preceptor.losses.features.ofa import ofa

CLASSES = 3
VIT = [(2, 17, 8)] * 3
CNN = [(2, 4, 8, 8), (2, 6, 4, 4), (2, 10, 2, 2)]


def built(loss, student, taught=None):
    torch.manual_seed(0)
    loss.build(student, {}, Setting(num_samples=8, num_classes=CLASSES, teacher=taught))
    return loss


def value(loss, student, rows=2, dtype=torch.float64):
    logits, teacher, labels = random_batch(rows, CLASSES, dtype=dtype)
    return loss(logits, teacher, labels, student_features=student)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (1.5, 1.0), (0.5, 3.0)])
def test_oracle_in_a_slow_loop(gamma, temperature):
    student, teacher, labels = random_batch(5, 4)
    q, p = (softmax(x.numpy() / temperature, -1) for x in (student, teacher))
    expected = [
        -sum(((p[b, c] + (c == y)) ** gamma - (c == y)) * np.log(q[b, c]) for c in range(4))
        for b, y in enumerate(labels.tolist())
    ]
    np.testing.assert_allclose(ofa(student, teacher, labels, gamma=gamma, temperature=temperature), expected)


def test_at_gamma_one_it_is_the_cross_entropy_to_the_teacher():
    student, teacher, labels = random_batch(5, 4)
    expected = nn.functional.cross_entropy(student, teacher.softmax(-1), reduction="none")
    torch.testing.assert_close(ofa(student, teacher, labels), expected)


def test_a_certain_teacher_and_half_precision():
    student, _, labels = random_batch(4, 5, dtype=torch.bfloat16)
    teacher = torch.full_like(student, -torch.inf).scatter(1, labels[:, None], 0.0)
    student.requires_grad_()
    found = ofa(student, teacher, labels, gamma=1.5)
    assert found.dtype == torch.float32
    expected = (2**1.5 - 1) * nn.functional.cross_entropy(student.float(), labels, reduction="none")
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("shapes", [CNN, VIT])
def test_the_loss_is_the_sum_over_stages_and_the_logits(shapes):
    student = features(*shapes)
    loss = built(OFA(gamma=1.5), student).double()
    logits, teacher, labels = random_batch(2, CLASSES)
    said = [logits, *(p(x) for p, x in zip(loss.projectors, student.values(), strict=True))]
    expected = sum(ofa(each, teacher, labels, gamma=1.5) for each in said)
    torch.testing.assert_close(value(loss, student), expected)


def test_a_projector_of_maps_halves_once_for_each_stage_that_follows():
    loss = built(OFA(), features(*CNN), nn.Sequential(nn.Linear(5, 16), nn.Linear(16, CLASSES), nn.Linear(2, 2)))
    widths = [[m.out_channels for m in p.body.modules() if isinstance(m, nn.Conv2d)] for p in loss.projectors]
    assert widths == [[4, 4, 4, 8, 8, 8, 8, 16], [6, 6, 6, 16], [16]]
    halved = [p.body(x.float()).shape[1:] for p, x in zip(loss.projectors, features(*CNN).values(), strict=True)]
    assert halved == [(16, 2, 2)] * 3
    assert [each.fc.in_features for each in loss.projectors] == [16] * 3


def test_patches_are_merged_to_a_grid_of_seven_and_the_class_token_is_read():
    projector = TokenProjector((2, 28 * 28 + 1, 6), 8, 2, CLASSES)
    assert [each.reduction.out_features for each in projector.merge] == [8, 8]
    assert projector.merge(torch.zeros(2, 28 * 28, 6)).shape == (2, 49, 8)
    assert len(projector.blocks) == 2
    tokens = torch.randn(2, 28 * 28 + 1, 6)
    projector.blocks = nn.Sequential()  # so that the class token alone is read
    torch.testing.assert_close(projector(tokens), projector.fc(projector.beside(tokens[:, 0])))


def test_merged_are_neighbours():
    merge = Merge((4, 4), 1, 4, active=False)
    merge.norm = nn.Identity()
    merge.reduction.weight.data = torch.eye(4)
    grid = torch.arange(16.0).view(4, 4)
    merged = merge(grid.view(1, 16, 1))[0]
    expected = {frozenset(grid[i : i + 2, j : j + 2].flatten().tolist()) for i in (0, 2) for j in (0, 2)}
    assert {frozenset(four.tolist()) for four in merged} == expected


def test_tokens_without_a_class_token_are_averaged():
    projector = TokenProjector((2, 16, 8), 8, 0, CLASSES)
    tokens = torch.randn(2, 16, 8)
    torch.testing.assert_close(projector(tokens), projector(tokens.flip(1)), rtol=1e-4, atol=1e-5)
    assert len(projector.blocks) == 1


def test_a_projector_of_maps_in_a_slow_loop():
    torch.manual_seed(0)
    projector = MapProjector(3, 5, 0, CLASSES).double()
    maps = features((2, 3, 2, 2))["layer0"]
    kernel, bias = (x.detach().numpy() for x in projector.body.parameters())
    mean = np.array(
        [[kernel[:, :, 0, 0] @ m[:, i, j] + bias for i in range(2) for j in range(2)] for m in maps.numpy()]
    )
    expected = mean.mean(1) @ projector.fc.weight.detach().numpy().T + projector.fc.bias.detach().numpy()
    np.testing.assert_allclose(projector(maps).detach(), expected)


@pytest.mark.parametrize("shapes", [[(2, 2, 4, 4), (2, 3, 2, 2)], [(2, 5, 4)] * 2])
def test_gradcheck(shapes):
    student = features(*shapes)
    loss = built(OFA(), student).double()
    leaves = [feature.requires_grad_() for feature in student.values()]

    def of(*given):
        return value(loss, dict(zip(student, given, strict=True)))

    assert torch.autograd.gradcheck(of, leaves)


@pytest.mark.parametrize("shapes", [CNN, VIT, [(2, 8, 8, 4), (2, 4, 4, 6)], [(2, 4), (2, 5)]])
def test_features_of_any_form_in_half_precision(shapes):
    student = {name: x.requires_grad_() for name, x in features(*shapes, dtype=torch.bfloat16).items()}
    found = value(built(OFA(), student), student, dtype=torch.bfloat16)
    assert found.shape == (2,)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert all(x.grad.isfinite().all() for x in student.values())


@pytest.mark.parametrize("shapes", [CNN, VIT])
def test_under_autocast_it_is_summed_in_single_precision(shapes):
    student = features(*shapes, dtype=torch.float32)
    loss = built(OFA(), student)
    expected = value(loss, student, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(loss, student, dtype=torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_a_batch_of_one_and_the_state():
    one = features(*((1, *shape[1:]) for shape in CNN))
    loss, other = built(OFA(), one).double(), built(OFA(), one).double()
    torch.nn.init.ones_(loss.projectors[0].fc.weight)
    value(loss, one, rows=1)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(value(other.eval(), one, rows=1), value(loss.eval(), one, rows=1))


def test_options_are_checked():
    for options in ({"gamma": 0.0}, {"temperature": -1.0}):
        with pytest.raises(InputError, match="give a positive number"):
            OFA(**options)
