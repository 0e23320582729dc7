"""AT: oracle and invariances."""

import numpy as np
import pytest
import torch

from losses.features.maps import built, features, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import AT
from preceptor.losses.features.at import at


def attention(feature, power):
    found = np.array([(np.abs(sample) ** power).mean(0).ravel() for sample in feature])
    return found / np.array([[max(np.sqrt((row**2).sum()), 1e-12)] for row in found])


def oracle(student, teacher, power=2):
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    s, t = (attention(pooled(x, height, width), power) for x in (student, teacher))
    return ((s - t) ** 2).mean(1)


@pytest.mark.parametrize("power", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(6, 6), (4, 5), (9, 12)])
def test_oracle(power, size):
    student, teacher = features((3, 2, 6, 6))["layer0"], features((3, 5, *size), seed=1)["layer0"]
    np.testing.assert_allclose(at(student, teacher, power=power), oracle(student, teacher, power))


def test_the_features_are_added_up():
    student, teacher = features((3, 2, 6, 6), (3, 4, 3, 3)), features((3, 3, 6, 6), (3, 4, 3, 3), seed=1)
    expected = sum(oracle(*pair) for pair in zip(student.values(), teacher.values(), strict=True))
    np.testing.assert_allclose(value(built(AT(), student, teacher), student, teacher), expected)


def test_the_scale_and_the_order_of_channels_do_not_matter():
    student, teacher = features((3, 4, 3, 3))["layer0"], features((3, 5, 3, 3), seed=1)["layer0"]
    expected = at(student, teacher)
    torch.testing.assert_close(at(-3 * student.flip(1), 0.1 * teacher.roll(2, 1)), expected)
    torch.testing.assert_close(at(student, 5 * student.flip(1)), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan")])
def test_a_power_is_positive(power):
    with pytest.raises(InputError, match=r"power is .*; give a positive number"):
        AT(power=power)
