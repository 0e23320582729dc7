"""NST: oracle, invariances, memory."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses.features.maps import built, features, pooled, value
from preceptor.losses.features import NST
from preceptor.losses.features.nst import nst


def oracle(student, teacher):
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    student, teacher = pooled(student, height, width), pooled(teacher, height, width)

    def kernel(one, other):
        pairs = [(a.ravel(), b.ravel()) for a in one for b in other]
        return np.mean([(a @ b) ** 2 / (a @ a) / (b @ b) for a, b in pairs])

    return [kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in zip(student, teacher, strict=True)]


@pytest.mark.parametrize("size", [(5, 5), (3, 4), (8, 10)])
def test_oracle(size):
    student, teacher = features((3, 2, 5, 5))["layer0"], features((3, 4, *size), seed=1)["layer0"]
    np.testing.assert_allclose(nst(student, teacher), oracle(student, teacher))


def test_the_features_are_added_up():
    student, teacher = features((3, 2, 6, 6), (3, 4, 3, 3)), features((3, 3, 6, 6), (3, 4, 3, 3), seed=1)
    expected = sum(np.array(oracle(*pair)) for pair in zip(student.values(), teacher.values(), strict=True))
    np.testing.assert_allclose(value(built(NST(), student, teacher), student, teacher), expected)


def test_the_scale_sign_and_order_of_channels_do_not_matter():
    """It compares sets of directions: also the same channels twice are the same set."""
    feature = features((3, 4, 3, 3))["layer0"]
    signs = torch.tensor([1.0, -2.0, 3.0, -0.5], dtype=torch.float64)[:, None, None]
    twice = torch.cat([feature, feature.flip(1)], 1)
    torch.testing.assert_close(nst(signs * feature.roll(1, 1), twice), torch.zeros(3, dtype=torch.float64))


class Largest(TorchDispatchMode):
    """Watches how many elements the largest result has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_holds_products_of_channels_at_every_position():
    student, teacher = torch.randn(2, 40, 10, 10, requires_grad=True), torch.randn(2, 50, 10, 10)
    with Largest() as largest:
        nst(student, teacher).sum().backward()
    assert largest.elements <= 2 * 50 * 100
