"""HSAKD: rotations, the two phases against slow loops, and what is trained in each."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from losses.features.maps import features
from preceptor.errors import InputError
from preceptor.losses.features import HSAKD
from preceptor.losses.features.base import Setting
from preceptor.losses.features.hsakd import Auxiliary, Residual

CLASSES, ROWS = 3, 2
STUDENT, TEACHER = [(2, 2, 4, 4), (2, 3, 2, 2)], [(2, 4, 6, 6), (2, 5, 3, 3)]


def given(dtype=torch.float64, rows=ROWS, student=STUDENT, teacher=TEACHER):
    """What `forward` is called with, drawn at random."""
    shapes = {"student": [(rows, *s[1:]) for s in student], "teacher": [(rows, *s[1:]) for s in teacher]}
    found = {}
    for number, (whose, own) in enumerate(shapes.items()):
        found[f"{whose}_features"] = features(*own, seed=4 * number, dtype=dtype)
        found[f"{whose}_view_features"] = features(*((3, *s) for s in own), seed=4 * number + 1, dtype=dtype)
        found[f"{whose}_logits"] = features((rows, CLASSES), seed=4 * number + 2, dtype=dtype)["layer0"]
        found[f"{whose}_views"] = features((3, rows, CLASSES), seed=4 * number + 3, dtype=dtype)["layer0"]
    return found | {"labels": torch.tensor([2, 0, 1, 2])[:rows]}


def built(loss, tensors, dtype=torch.float64):
    torch.manual_seed(0)
    loss.build(tensors["student_features"], tensors["teacher_features"], Setting(num_samples=8, num_classes=CLASSES))
    return loss.to(dtype)


def distilling(**options):
    """In the second phase, with tensors."""
    tensors = given(**{name: options.pop(name) for name in ("rows", "student", "teacher") if name in options})
    loss = built(HSAKD(init_epochs=1, **options), tensors)
    loss.start_epoch(1, 2)
    return loss, tensors


def asked(heads, tensors, whose):
    """What the classifiers say to each rotation, (4, B, 4 C), by stage."""
    own, views = tensors[f"{whose}_features"], tensors[f"{whose}_view_features"]
    together = [torch.cat([own[name], *views[name]]) for name in own]
    with torch.no_grad():
        return [head(x).view(4, -1, 4 * CLASSES).numpy() for head, x in zip(heads, together, strict=True)]


def test_the_views_are_quarter_turns():
    images = torch.randn(2, 3, 4, 4)
    turned = HSAKD().views(images).view(3, 2, 3, 4, 4)
    for turns, image in ((t, i) for t in range(3) for i in range(2)):
        np.testing.assert_array_equal(turned[turns, image], np.rot90(images[image], turns + 1, (1, 2)))


def test_first_the_teachers_classifiers_learn_class_and_rotation():
    tensors = given()
    loss = built(HSAKD(init_epochs=2), tensors)
    loss.start_epoch(1, 3)
    assert loss.alone
    found = loss(**tensors)
    said = asked(loss.teacher_heads, tensors, "teacher")
    expected = [
        -sum(log_softmax(stage[turn, b])[4 * y + turn] for stage in said for turn in range(4)) / 4
        for b, y in enumerate(tensors["labels"].tolist())
    ]
    np.testing.assert_allclose(found.detach(), expected)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in loss.teacher_heads.parameters())
    assert all(parameter.grad is None for parameter in loss.student_heads.parameters())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_then_the_students_learn_from_them_and_the_student_from_the_teacher(temperature):
    loss, tensors = distilling(temperature=temperature)
    found = loss(**tensors)
    assert not loss.alone
    ours, theirs = asked(loss.student_heads, tensors, "student"), asked(loss.teacher_heads, tensors, "teacher")
    ours.append(torch.cat([tensors["student_logits"][None], tensors["student_views"]]).numpy())
    theirs.append(torch.cat([tensors["teacher_logits"][None], tensors["teacher_views"]]).numpy())
    expected = np.zeros(ROWS)
    for z, v in zip(ours, theirs, strict=True):
        q, p = (softmax(x / temperature, -1) for x in (z, v))
        expected += temperature**2 * (p * np.log(p / q)).sum(-1).mean(0)
    np.testing.assert_allclose(found.detach(), expected)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in loss.student_heads.parameters())
    assert all(parameter.grad is None for parameter in loss.teacher_heads.parameters())


def test_no_gradient_to_the_teacher_and_none_to_the_student_at_first():
    tensors = given()
    loss = built(HSAKD(init_epochs=1), tensors)
    leaves = {
        whose: [tensors[f"{whose}_logits"], *tensors[f"{whose}_features"].values()] for whose in ("student", "teacher")
    }
    for leaf in (*leaves["student"], *leaves["teacher"]):
        leaf.requires_grad_()
    for epoch, learns in ((0, False), (1, True)):
        loss.start_epoch(epoch, 2)
        total = loss(**tensors).sum()
        grads = torch.autograd.grad(total, leaves["student"], allow_unused=True, retain_graph=True)
        assert all((grad is not None) == learns for grad in grads)
        assert all(grad is None for grad in torch.autograd.grad(total, leaves["teacher"], allow_unused=True))


def test_gradcheck():
    loss, tensors = distilling()
    loss.student_heads.eval()
    name = "layer0"
    leaves = tensors["student_features"][name].requires_grad_(), tensors["student_views"].requires_grad_()

    def of(feature, views):
        changed = {**tensors["student_features"], name: feature}
        return loss(**{**tensors, "student_features": changed, "student_views": views})

    assert torch.autograd.gradcheck(of, leaves)


def test_once_trained_the_teachers_classifiers_stay_as_they_are():
    loss, tensors = distilling()
    before = {name: tensor.clone() for name, tensor in loss.teacher_heads.state_dict().items()}
    first = loss(**tensors)
    for _ in range(3):
        loss(**tensors)
    assert all(tensor.equal(before[name]) for name, tensor in loss.teacher_heads.state_dict().items())
    torch.testing.assert_close(loss(**tensors), first)
    other = built(HSAKD(init_epochs=1), tensors)
    nn.init.ones_(other.teacher_heads[0].fc.weight)
    other.load_state_dict(loss.state_dict())
    other.start_epoch(1, 2)
    torch.testing.assert_close(other(**tensors), loss(**tensors))


def test_a_classifier_has_residual_blocks_for_each_later_stage():
    head = Auxiliary([(2, 8), (3, 4), (5, 4)], 12, blocks=2)
    blocks = [(b.conv1.in_channels, b.conv1.out_channels, b.conv1.stride[0]) for b in head.body]
    assert blocks == [(2, 3, 2), (3, 3, 1), (3, 5, 1), (5, 5, 1)]
    last = Auxiliary([(5, 4)], 12, blocks=1)
    assert [(b.conv1.in_channels, b.conv1.out_channels) for b in last.body] == [(5, 5)]
    assert head(torch.randn(3, 2, 8, 8)).shape == (3, 12)


def test_a_residual_block_in_eval_mode_in_numpy():
    block = Residual(1, 1, 1).eval().double()
    image = features((1, 1, 3, 3))["layer0"]
    padded = np.pad(image[0, 0].numpy(), 1)
    kernels = [conv.weight.detach()[0, 0].numpy() for conv in (block.conv1, block.conv2)]

    def convolved(x, kernel):
        return np.array([[(x[i : i + 3, j : j + 3] * kernel).sum() for j in range(3)] for i in range(3)])

    scale = 1 / np.sqrt(1 + 1e-5)
    inner = np.maximum(convolved(padded, kernels[0]) * scale, 0)
    expected = np.maximum(padded[1:-1, 1:-1] + convolved(np.pad(inner, 1), kernels[1]) * scale, 0)
    np.testing.assert_allclose(block(image)[0, 0].detach(), expected)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("student", [STUDENT, [(2, 10, 4), (2, 9, 6)], [(2, 5), (2, 7)]])
def test_features_of_any_form_in_half_precision(rows, student):
    tensors = given(torch.bfloat16, rows, student)
    loss = built(HSAKD(init_epochs=1), tensors, torch.float32)
    leaf = tensors["student_features"]["layer0"].requires_grad_()
    for epoch in (0, 1):
        loss.start_epoch(epoch, 2)
        found = loss(**tensors)
        assert found.shape == (rows,)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), leaf)[0].isfinite().all()


def test_under_autocast_it_is_summed_in_single_precision():
    tensors = given(torch.float32)
    loss = built(HSAKD(init_epochs=1), tensors, torch.float32)
    for epoch in (0, 1):
        loss.start_epoch(epoch, 2)
        expected = loss(**tensors)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(**tensors)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_what_it_cannot_do_is_said():
    with pytest.raises(InputError, match=r"have shape \(3, 4, 6\); crop them to squares"):
        HSAKD().views(torch.zeros(2, 3, 4, 6))
    with pytest.raises(InputError, match="are 30 of the 30 epochs of this run"):
        HSAKD().start_epoch(0, 30)
    for options in ({"init_epochs": 0}, {"blocks": 0}, {"temperature": 0.0}):
        with pytest.raises(InputError, match="of HSAKD is 0"):
            HSAKD(**options)
    with pytest.raises(InputError, match="compares 1 features of the student"):
        built(HSAKD(), given(student=STUDENT[:1]))
