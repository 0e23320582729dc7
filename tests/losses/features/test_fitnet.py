"""FitNet: oracle, the regressor of each pair of sizes, and the hint."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from losses.features.maps import built, features, value
from preceptor.losses.features import FitNet
from preceptor.losses.features._adapters import Norm
from preceptor.losses.features.fitnet import fitnet


def test_oracle():
    student, teacher = features((3, 2, 4, 5))["layer0"], features((3, 2, 4, 5), seed=1)["layer0"]
    expected = [
        sum((a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True)) / 40
        for s, t in zip(student, teacher, strict=True)
    ]
    np.testing.assert_allclose(fitnet(student, teacher), expected)


def test_the_regression_in_a_slow_loop():
    """A convolution whose kernel takes off the difference of sizes, batch norm by the batch, ReLU, mean squares."""
    student, teacher = features((3, 2, 5, 5)), features((3, 4, 3, 3), seed=1)
    loss = built(FitNet(student="layer0"), student, teacher)
    kernel, bias = (x.detach().numpy() for x in loss.regressors[0].conv.parameters())
    assert kernel.shape == (4, 2, 3, 3)
    found = np.zeros((3, 4, 3, 3))
    for b in range(3):
        for out in range(4):
            found[b, out] = bias[out] + sum(
                correlate2d(student["layer0"][b, c].numpy(), kernel[out, c], mode="valid") for c in range(2)
            )
    mean, variance = found.mean((0, 2, 3), keepdims=True), found.var((0, 2, 3), keepdims=True)
    found = np.maximum((found - mean) / np.sqrt(variance + 1e-5), 0)
    expected = ((found - teacher["layer0"].numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected)


@pytest.mark.parametrize(
    ("size", "of_teacher", "kernel", "stride"),
    [
        ((8, 8), (4, 4), (3, 3), (2, 2)),
        ((4, 4), (8, 8), (4, 4), (2, 2)),
        ((8, 8), (8, 8), (1, 1), (1, 1)),
        ((8, 8), (6, 6), (3, 3), (1, 1)),
        ((40, 40), (4, 4), (3, 3), (2, 2)),
        ((4, 4), (7, 7), (1, 1), (1, 1)),
    ],
)
def test_the_convolution_of_each_pair_of_sizes(size, of_teacher, kernel, stride):
    student, teacher = features((2, 2, *size)), features((2, 3, *of_teacher), seed=1)
    loss = built(FitNet(student="layer0"), student, teacher)
    conv = loss.regressors[0].conv
    assert (conv.kernel_size, conv.stride) == (kernel, stride)
    mapped = loss.regressors[0](student["layer0"])
    assert mapped.shape == (2, 3, *(size if of_teacher == (7, 7) else of_teacher))
    assert value(loss, student, teacher).shape == (2,)


def test_the_hint_is_the_second_stage_unless_layers_are_named():
    student, teacher = features((2, 2, 4, 4), (2, 3, 3, 3), (2, 4, 2, 2)), features(*[(2, 2, 4, 4)] * 3, seed=1)
    loss = built(FitNet(), student, teacher)
    assert len(loss.regressors) == 1
    before = value(loss, student, teacher)
    changed = {**student, "layer0": student["layer0"] + 1, "layer2": student["layer2"] + 1}
    torch.testing.assert_close(value(loss, changed, teacher), before)
    named = built(FitNet(student=["layer0", "layer1", "layer2"]), student, teacher)
    assert len(named.regressors) == 3


def test_a_channel_with_one_value_takes_the_running_statistics():
    norm = Norm(3)
    norm(torch.randn(8, 3, 2, 2))
    single = torch.randn(1, 3, 1, 1)
    before = norm.running_mean.clone()
    expected = (single - before[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    torch.testing.assert_close(norm(single), expected)
    torch.testing.assert_close(norm.running_mean, before)
