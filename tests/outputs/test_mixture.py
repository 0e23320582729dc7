import math

import pytest
import torch

from preceptor.errors import InputError
from preceptor.outputs import average_probabilities


@pytest.fixture
def teachers():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 3, 4, dtype=torch.float64, generator=generator) for _ in range(3)]


def test_mean_of_probabilities(teachers):
    expected = sum(t.softmax(-1) for t in teachers) / 3
    torch.testing.assert_close(average_probabilities(teachers).exp(), expected)


@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_weights_are_normalised(teachers, factor):
    p = [t.softmax(-1) for t in teachers]
    value = average_probabilities(teachers, weights=[0.5 * factor, 0.2 * factor, 0.3 * factor])
    torch.testing.assert_close(value.exp(), 0.5 * p[0] + 0.2 * p[1] + 0.3 * p[2])


def test_weight_zero_leaves_a_teacher_out(teachers):
    torch.testing.assert_close(average_probabilities(teachers, weights=[1, 0, 0]), teachers[0].log_softmax(-1))


def test_log_probabilities_with_zeros():
    one = torch.tensor([0.0, -torch.inf, -torch.inf])
    two = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert average_probabilities([one, two]).exp().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes_stay_in_log_space(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    value = average_probabilities([logits, logits])
    assert value.dtype == torch.float32
    assert not value.requires_grad
    torch.testing.assert_close(value, torch.tensor([[0.0, -2e4, -1e4]]), rtol=0.01, atol=0)


def test_bad_input(teachers):
    with pytest.raises(InputError, match=r"no teachers"):
        average_probabilities([])
    with pytest.raises(InputError, match=r"different shapes"):
        average_probabilities([teachers[0], teachers[1][:1]])
    for weights in ([1, 2], [1, -1, 1], [0, 0, 0], [math.nan, 1, 1], [1, 1, math.inf]):
        with pytest.raises(InputError, match=r"do not fit 3 teachers"):
            average_probabilities(teachers, weights=weights)
