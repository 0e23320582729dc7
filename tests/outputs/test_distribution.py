import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from preceptor.outputs import read_logits
from preceptor.schema import Temperature, VectorScaling

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 4))


def test_nothing_to_do_leaves_the_logits_as_they_are():
    logits = torch.tensor(LOGITS, dtype=torch.float16)
    assert read_logits(logits) is logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_temperature_divides_in_at_least_float32(dtype):
    logits = torch.tensor(LOGITS, dtype=dtype)
    found = read_logits(logits, temperature=3.0)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    np.testing.assert_allclose(found.softmax(-1).numpy(), softmax(logits.double().numpy() / 3, -1), rtol=1e-6)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS[:, 0]])
def test_each_model_of_a_stack_has_a_temperature_of_its_own(logits):
    found = read_logits(torch.tensor(logits), temperature=[0.5, 2.0])
    np.testing.assert_allclose(found.numpy(), np.stack([logits[0] * 2, logits[1] / 2]))


def test_the_distribution_comes_first_then_the_temperature_then_the_transform():
    clipped = LOGITS.clip(0, 1)
    clipped = np.where(clipped.sum(-1, keepdims=True) > 0, clipped, 1.0)
    power = (clipped / clipped.sum(-1, keepdims=True)) ** (1 / 2)
    expected = power / power.sum(-1, keepdims=True)
    found = read_logits(torch.tensor(LOGITS), "clip", 2.0)
    np.testing.assert_allclose(found.softmax(-1).numpy(), expected, atol=1e-12)
    found = read_logits(torch.tensor(LOGITS), "clip", 2.0, Temperature(temperature=0.5))
    np.testing.assert_allclose(found.exp().numpy(), clipped / clipped.sum(-1, keepdims=True), atol=1e-12)
    biased = VectorScaling(scale=(1.0,) * 4, bias=(1.0, 0.0, 0.0, 0.0))
    found = read_logits(torch.tensor(LOGITS), "softmax", 4.0, biased)  # the bias is not divided
    np.testing.assert_allclose(found.numpy(), log_softmax(LOGITS / 4 + np.array([1.0, 0, 0, 0]), -1), atol=1e-12)
