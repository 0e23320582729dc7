"""OFD: oracle, margins against scipy's truncated normal, and where the batch norm of a tap is found."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from losses.features.maps import built, features, pooled, value
from preceptor.losses.features import OFD
from preceptor.losses.features.base import Setting
from preceptor.losses.features.ofd import margin_of_norm, margin_of_values, norm_before, ofd
from preceptor.models import resnet8, wrn_16_1


def oracle(student, teacher, margin):
    """By the three cases of a pair of values, as the reimplementations count them."""
    found = np.zeros(len(student))
    for place in np.ndindex(*student.shape):
        s, t, m = student[place], teacher[place], margin[place[1]]
        if t > 0 or (m < t <= 0 and s > t):
            found[place[0]] += (s - t) ** 2
        elif t <= m and s > m:
            found[place[0]] += (s - m) ** 2
    return found


def test_oracle():
    student, teacher = features((3, 4, 3, 3))["layer0"], features((3, 4, 3, 3), seed=1)["layer0"]
    margin = torch.tensor([-0.1, -0.5, -1.0, -3.0])
    expected = oracle(student.numpy(), teacher.numpy(), margin.double().numpy())
    np.testing.assert_allclose(ofd(student, teacher, margin), expected)


def test_later_stages_weigh_more_and_the_teacher_is_averaged_to_the_size_of_the_student():
    student, teacher = features((3, 2, 3, 3), (3, 2, 2, 2)), features((3, 2, 6, 5), (3, 2, 2, 2), seed=1)
    loss = built(OFD(), student, teacher).eval()
    expected = 0
    for level, share in ((0, 0.5), (1, 1.0)):
        s, t = student[f"layer{level}"].numpy(), teacher[f"layer{level}"].numpy()
        weight = loss.connectors[level][0].weight.detach().numpy()[:, :, 0, 0]
        mapped = np.einsum("oc,bchw->bohw", weight, s) / np.sqrt(1 + 1e-5)
        margin = loss.get_buffer(f"margin{level}").numpy()
        expected = expected + share * oracle(mapped, pooled(t, *s.shape[2:]), margin)
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected)


def test_the_margin_of_a_batch_norm_is_the_mean_of_a_truncated_normal():
    norm = nn.BatchNorm2d(5)
    deviation, mean = [0.5, -2.0, 1.0, 1.0, 1.0], [0.0, 1.0, -3.0, 3.0, 4.0]
    norm.weight.data, norm.bias.data = torch.tensor(deviation), torch.tensor(mean)
    expected = [
        stats.truncnorm.mean(-np.inf, -m / abs(s), loc=m, scale=abs(s)) for s, m in zip(deviation, mean, strict=True)
    ]
    expected[4] = -3.0  # negative with a probability of 0.00003
    np.testing.assert_allclose(margin_of_norm(norm), expected, rtol=1e-5)


def test_margins_of_a_norm_that_scales_by_nothing():
    norm = nn.BatchNorm2d(3)
    norm.weight.data, norm.bias.data = torch.zeros(3), torch.tensor([-1.5, 0.0, 2.0])
    torch.testing.assert_close(margin_of_norm(norm), torch.tensor([-1.5, 0.0, 0.0]))
    plain = nn.BatchNorm2d(2, affine=False)
    torch.testing.assert_close(margin_of_norm(plain), torch.full((2,), -float(np.sqrt(2 / np.pi))))


def test_margins_of_values_and_of_a_norm_agree_where_the_values_are_normal():
    norm = nn.BatchNorm2d(4)
    norm.weight.data, norm.bias.data = torch.tensor([0.5, 1.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, -1.0, 9.0])
    values = torch.randn(64, 4, 40, 40, generator=torch.Generator().manual_seed(0))
    found = margin_of_values(norm.weight[:, None, None] * values + norm.bias[:, None, None])
    torch.testing.assert_close(found, margin_of_norm(norm), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("model", "tap", "norm"),
    [
        (resnet8, "layer2.0.act2:input", "layer2.0.bn2"),  # and not that of its shortcut
        (resnet8, "act1:input", "bn1"),
        (wrn_16_1, "layer2.0.act1:input", "layer2.0.bn1"),
        (wrn_16_1, "act:input", "bn"),
        (wrn_16_1, "bn", "bn"),
        (wrn_16_1, "layer1", None),
        (resnet8, "layer1.0.bn1:input", None),
    ],
)
def test_the_batch_norm_of_a_tap(model, tap, norm):
    model = model(num_classes=3)
    assert norm_before(model, tap) is (None if norm is None else model.get_submodule(norm))


def test_the_margins_come_from_the_teacher_s_batch_norms():
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    teacher[1].bias.data = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    of_student, of_teacher = features((2, 3, 4, 4)), {"2:input": features((2, 4, 4, 4))["layer0"]}
    loss = built(OFD(), of_student, of_teacher, Setting(50, 3, teacher=teacher))
    torch.testing.assert_close(loss.get_buffer("margin0"), margin_of_norm(teacher[1]).double())
    by_values = built(OFD(), of_student, {"3": of_teacher["2:input"]}, Setting(50, 3, teacher=teacher))
    torch.testing.assert_close(by_values.get_buffer("margin0"), margin_of_values(of_teacher["2:input"]).double())
