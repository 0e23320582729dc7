"""SimKD: oracle, the teacher's classifier in the student, and training with it."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.features.maps import features, gradients, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import SimKD
from preceptor.losses.features.base import Setting
from preceptor.models import resnet8, resnet14, reused_head
from preceptor.tasks import DistillTask


def built(student, teacher, model, head):
    loss = SimKD()
    loss.build(student, teacher, Setting(num_samples=8, num_classes=3, teacher_head=head, student=model))
    return loss


def student_of(channels, num_classes=3):
    torch.manual_seed(0)
    return reused_head(of="resnet8", channels=channels, num_classes=num_classes)


@pytest.mark.parametrize(("size", "of_teacher"), [((4, 4), (4, 4)), ((8, 8), (4, 4)), ((3, 3), (7, 7))])
def test_oracle(size, of_teacher):
    student, teacher = features((3, 6, *size)), features((3, 6, *of_teacher), seed=1)
    loss = built(student, teacher, student_of(6), nn.Linear(6, 3))
    smaller = [min(pair) for pair in zip(size, of_teacher, strict=True)]
    s, t = (pooled(x["layer0"], *smaller) for x in (student, teacher))
    np.testing.assert_allclose(value(loss, student, teacher), ((s - t) ** 2).mean((1, 2, 3)))


def test_gradcheck_and_half_precision():
    student, teacher = features((2, 4, 3, 3)), features((2, 4, 2, 2), seed=1)
    loss = built(student, teacher, student_of(4), nn.Linear(4, 3))
    assert torch.autograd.gradcheck(lambda x: value(loss, {"layer0": x}, teacher), student["layer0"].requires_grad_())
    half = [features((1, 4, 3, 3), seed=n, dtype=torch.bfloat16) for n in (0, 1)]
    found, [grad] = gradients(loss, *half)
    assert found.dtype == torch.float32
    assert grad.isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_student_is_given_the_teachers_classifier_for_good(bias):
    head, student = nn.Linear(6, 3, bias=bias), student_of(6)
    built(features((2, 6, 4, 4)), features((2, 6, 4, 4)), student, head)
    assert student.fc.weight.equal(head.weight)
    assert student.fc.bias.equal(head.bias if bias else torch.zeros(3))
    assert not any(parameter.requires_grad for parameter in student.fc.parameters())
    with torch.no_grad():
        head.weight += 1  # the teacher's own is another tensor
    assert not student.fc.weight.equal(head.weight)


def test_a_student_learns_what_its_teacher_says_without_a_label():
    torch.manual_seed(1)
    teacher = resnet14(num_classes=3, input_shape=(3, 8, 8))
    images = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        teacher(images)  # statistics
        said = teacher.eval()(images)
    student = reused_head(of="resnet8", channels=64, num_classes=3, input_shape=(3, 8, 8))
    batch = {"input": images, "label": torch.zeros(64, dtype=torch.int64)}
    task = DistillTask(student, teacher, SimKD(), ce_weight=0.0, distill_weight=1.0, num_classes=3, example=batch)
    start = student.fc.weight.clone()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    losses, apart = [], []
    for _ in range(40):
        optimizer.zero_grad()
        out = task(batch)
        loss = out["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        apart.append((out["logits"].detach() - said).square().mean())
    assert losses[-1] < 0.7 * losses[0]
    assert student.fc.weight.equal(start)
    assert student.fc.weight.equal(teacher.fc.weight)
    assert apart[-1] < 0.75 * apart[0]


def test_what_it_cannot_do_is_said():
    student, teacher = features((2, 6, 4, 4)), features((2, 6, 4, 4), seed=1)
    with pytest.raises(InputError, match=r"this is a ResNet; take the model reused_head, .* with 6 channels"):
        built(student, teacher, resnet8(num_classes=3), nn.Linear(6, 3))
    with pytest.raises(InputError, match="give the model reused_head 6 channels"):
        built(student, teacher, student_of(4), nn.Linear(6, 3))
    with pytest.raises(InputError, match="6 last maps, and the teacher's is none that is known; take another teacher"):
        built(student, teacher, student_of(6), None)
    with pytest.raises(InputError, match=r"the teacher's is Linear\(in_features=96"):
        built(student, teacher, student_of(6), nn.Linear(96, 3))
