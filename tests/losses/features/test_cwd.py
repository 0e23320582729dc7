"""CWD: oracle and invariances."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from losses.features.maps import built, features, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import CWD
from preceptor.losses.features.cwd import cwd


def oracle(student, teacher, temperature):
    found = []
    for s, t in zip(student, teacher, strict=True):
        p, q = ([softmax(channel.ravel() / temperature) for channel in x] for x in (t, s))
        found.append(temperature**2 * np.mean([rel_entr(a, b).sum() for a, b in zip(p, q, strict=True)]))
    return np.array(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_oracle(temperature):
    student, teacher = features((3, 4, 3, 5))["layer0"], features((3, 4, 3, 5), seed=1)["layer0"]
    expected = oracle(student.numpy(), teacher.numpy(), temperature)
    np.testing.assert_allclose(cwd(student, teacher, temperature=temperature), expected)


def test_other_channels_pass_a_convolution_and_other_sizes_are_averaged():
    student, teacher = features((3, 2, 6, 6), (3, 3, 2, 2)), features((3, 4, 3, 4), (3, 3, 2, 2), seed=1)
    loss = built(CWD(temperature=2.0), student, teacher)
    assert isinstance(loss.widen[1], nn.Identity)
    weight, bias = (x.detach().numpy() for x in loss.widen[0].parameters())
    mapped = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], student["layer0"].numpy()) + bias[:, None, None]
    expected = oracle(pooled(mapped, 3, 4), teacher["layer0"].numpy(), 2.0)
    expected += oracle(student["layer1"].numpy(), teacher["layer1"].numpy(), 2.0)
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected)


def test_what_is_added_to_a_channel_does_not_matter():
    student, teacher = features((3, 4, 3, 3))["layer0"], features((3, 4, 3, 3), seed=1)["layer0"]
    added = features((3, 4, 1, 1), seed=2)["layer0"]
    torch.testing.assert_close(cwd(student + added, teacher - added), cwd(student, teacher))
    torch.testing.assert_close(cwd(teacher, teacher + added), torch.zeros(3, dtype=torch.float64))


def test_large_features_overflow_nothing():
    student, teacher = torch.tensor([[[[1e5, 0.0]]]]), torch.tensor([[[[0.0, 1e5]]]])
    assert cwd(student, teacher, temperature=1.0).item() == pytest.approx(1e5)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperatures(temperature):
    with pytest.raises(InputError, match="give a positive finite number"):
        CWD(temperature=temperature)
