"""PKD: oracle by correlation, invariances, and channels that correlate with nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses.features.maps import built, features, gradients, value
from preceptor.losses.features import PKD
from preceptor.losses.features.pkd import pkd


def oracle(student, teacher):
    channels = zip(np.moveaxis(student, 1, 0), np.moveaxis(teacher, 1, 0), strict=True)
    gaps = [1 - np.corrcoef(s.ravel(), t.ravel())[0, 1] for s, t in channels]
    count = student.size / student.shape[1]
    return np.mean(gaps) * (count - 1) / count


def test_oracle():
    student, teacher = features((3, 4, 3, 5))["layer0"], features((3, 4, 3, 5), seed=1)["layer0"]
    np.testing.assert_allclose(pkd(student, teacher), oracle(student.numpy(), teacher.numpy()), rtol=1e-5)


def test_the_scale_and_the_level_of_a_channel_do_not_matter():
    student, teacher = features((3, 4, 3, 3))["layer0"], features((3, 4, 3, 3), seed=1)["layer0"]
    scale, level = torch.tensor([0.5, 1, 7, 100])[:, None, None], torch.arange(4.0)[:, None, None]
    torch.testing.assert_close(
        pkd(scale * student + level, teacher / scale - level), pkd(student, teacher), rtol=1e-4, atol=0
    )
    assert pkd(student, scale * student + level).item() == pytest.approx(0, abs=1e-9)
    assert pkd(student, -student).item() == pytest.approx(2 * 26 / 27, rel=1e-5)


def test_the_student_is_interpolated_to_the_size_of_the_teacher_and_widened():
    student, teacher = features((3, 2, 4, 4), (3, 3, 2, 2)), features((3, 4, 6, 5), (3, 3, 2, 2), seed=1)
    loss = built(PKD(), student, teacher)
    weight = loss.widen[0].weight.detach().numpy()[:, :, 0, 0]
    grown = F.interpolate(student["layer0"], (6, 5), mode="bilinear").numpy()
    expected = oracle(np.einsum("oc,bchw->bohw", weight, grown), teacher["layer0"].numpy())
    expected += oracle(student["layer1"].numpy(), teacher["layer1"].numpy())
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected, rtol=1e-5)


def test_a_batch_of_one_without_positions_correlates_with_nothing():
    student, teacher = features((1, 4)), features((1, 4), seed=1)
    found, grads = gradients(built(PKD(), student, teacher), student, teacher)
    assert found == 0
    assert (grads[0] == 0).all()


def test_a_constant_channel_adds_half_of_a_variance():
    student, teacher = torch.full((3, 1, 3, 3), 4.0), features((3, 1, 3, 3))["layer0"].float()
    student.requires_grad_()
    found = pkd(student, teacher)
    assert found.item() == pytest.approx(26 / 27 / 2, rel=1e-5)
    assert torch.autograd.grad(found, student)[0].isfinite().all()
