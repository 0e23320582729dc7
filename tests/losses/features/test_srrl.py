"""SRRL: oracle, the teacher's classifier that stays as it is, and features of any form."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.features.maps import features
from preceptor.errors import InputError
from preceptor.losses.features import SRRL
from preceptor.losses.features.base import Setting

CLASSES = 5


def built(loss, student, teacher, head):
    torch.manual_seed(0)
    loss.build(student, teacher, Setting(num_samples=8, num_classes=CLASSES, teacher_head=head))
    return loss


def head_of(width, **options):
    torch.manual_seed(1)
    return nn.Linear(width, CLASSES, **options)


def value(loss, student, teacher, logits):
    return loss(torch.zeros_like(logits), logits, student_features=student, teacher_features=teacher)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 5.0)])
def test_oracle_in_a_slow_loop(alpha, beta):
    student, teacher = features((3, 2, 4, 4)), features((3, 6), seed=1)
    head = head_of(6)
    loss = built(SRRL(alpha=alpha, beta=beta), student, teacher, head).double()
    logits = features((3, CLASSES), seed=2)["layer0"]
    kernel = loss.connector[0][0].weight[:, :, 0, 0].detach().numpy()
    maps = np.zeros((3, 6, 4, 4))
    for b in range(3):
        for i in range(4):
            for j in range(4):
                maps[b, :, i, j] = kernel @ student["layer0"][b, :, i, j].numpy()
    mean, variance = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True)
    vectors = np.maximum((maps - mean) / np.sqrt(variance + 1e-5), 0).mean((2, 3))
    said = vectors @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    expected = alpha * ((vectors - teacher["layer0"].numpy()) ** 2).mean(1)
    expected += beta * ((said - logits.numpy()) ** 2).mean(1)
    np.testing.assert_allclose(value(loss, student, teacher, logits).detach(), expected)


def test_gradcheck():
    student, teacher = features((2, 2, 3, 3)), features((2, 4), seed=1)
    loss = built(SRRL(), student, teacher, head_of(4)).double()
    logits = features((2, CLASSES), seed=2)["layer0"]
    leaf = student["layer0"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value(loss, {"layer0": x}, teacher, logits), leaf)


def test_the_teachers_classifier_is_neither_trained_nor_saved():
    student, teacher = features((3, 2, 4, 4)), features((3, 6), seed=1)
    head = head_of(6)
    loss = built(SRRL(), student, teacher, head).double()
    value(loss, student, teacher, torch.zeros(3, CLASSES).double()).sum().backward()
    assert head.weight.grad is None
    assert {name.partition(".")[0] for name in loss.state_dict()} == {"connector"}
    assert all(parameter.grad is not None for parameter in loss.parameters())
    other = built(SRRL(), student, teacher, head).double()
    other.load_state_dict(loss.state_dict())
    with torch.no_grad():
        head.weight += 1  # a teacher whose weights are loaded later is asked as it is then
    found, again = (value(each, student, teacher, torch.zeros(3, CLASSES)) for each in (loss, other))
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 5, 5, 3), (4, 7, 3), (4, 3), (1, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_features_of_any_form_and_precision(shape, dtype):
    student = {name: x.to(dtype).requires_grad_() for name, x in features(shape).items()}
    teacher = {name: x.to(dtype) for name, x in features((shape[0], 6), seed=1).items()}
    loss = built(SRRL(), student, teacher, head_of(6).to(dtype))
    found = value(loss, student, teacher, torch.zeros(shape[0], CLASSES, dtype=dtype))
    assert found.shape == shape[:1]
    assert found.dtype == torch.float32
    found.sum().backward()
    assert student["layer0"].grad.isfinite().all()


def test_under_autocast_it_is_summed_in_single_precision():
    student, teacher = (features(s, seed=n, dtype=torch.float32) for n, s in enumerate([(4, 3, 5, 5), (4, 6)]))
    loss = built(SRRL(), student, teacher, head_of(6))
    logits = torch.zeros(4, CLASSES)
    expected = value(loss, student, teacher, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(loss, student, teacher, logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_an_mlp_as_classifier():
    head = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    student, teacher = features((3, 2, 4, 4)), features((3, 6), seed=1)
    loss = built(SRRL(alpha=0.0), student, teacher, head).double()
    vectors = loss.connector(student["layer0"]).mean((-2, -1))
    expected = head.double()(vectors).square().mean(1)
    torch.testing.assert_close(value(loss, student, teacher, torch.zeros(3, CLASSES).double()), expected)


def test_what_it_cannot_do_is_said():
    student, teacher = features((3, 2, 4, 4)), features((3, 6), seed=1)
    with pytest.raises(InputError, match="has no module whose output are its logits; give a model that ends in one"):
        built(SRRL(), student, teacher, None)
    with pytest.raises(InputError, match=r"features of shape \(3, 6\) as at 'layer0', .* no logits of 5 classes"):
        built(SRRL(), student, teacher, head_of(7))
    with pytest.raises(InputError, match=r"features of shape \(3, 6, 2, 2\)"):
        built(SRRL(), student, features((3, 6, 2, 2)), head_of(6))
    with pytest.raises(InputError, match=r"looks at one feature of each model, and here are 2 \(layer0, layer1\)"):
        built(SRRL(), features((3, 2, 4, 4), (3, 2, 2, 2)), teacher, head_of(6))
    with pytest.raises(InputError, match=r"beta of SRRL is -1\.0; give 0 or more"):
        SRRL(beta=-1.0)
