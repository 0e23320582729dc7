import math

import pytest
import torch
import torch.nn.functional as F

from preceptor.errors import InputError
from preceptor.teaching import confidence_penalty, cross_entropy, label_smoothing


@pytest.fixture
def logits():
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3)) * 3


@pytest.fixture
def labels():
    return torch.tensor([[0, 3, 1, 2, 2], [1, 1, 0, 3, 0]])


def test_cross_entropy_by_hand():
    logits = torch.tensor([0.2, 0.7, 0.1]).log()
    assert cross_entropy(logits, torch.tensor(1)).item() == pytest.approx(-math.log(0.7))


def test_cross_entropy_is_torchs(logits, labels):
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torchs(logits, labels, smoothing):
    expected = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    ).view(2, 5)
    torch.testing.assert_close(label_smoothing(logits, labels, smoothing=smoothing), expected)


def test_label_smoothing_gradient_is_output_minus_target(logits, labels):
    logits.requires_grad_()
    label_smoothing(logits, labels, smoothing=0.2).sum().backward()
    target = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - target).detach())


def test_confidence_penalty_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    entropy = 1.5 * math.log(2)  # 1.5 bits
    value = confidence_penalty(logits, torch.tensor(0), weight=0.2)
    assert value.item() == pytest.approx(math.log(2) - 0.2 * entropy)


def test_confidence_penalty_uses_torchs_entropy(logits, labels):
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(
        confidence_penalty(logits, labels, weight=0.7), cross_entropy(logits, labels) - 0.7 * entropy
    )


def test_weight_zero_is_cross_entropy(logits, labels):
    torch.testing.assert_close(confidence_penalty(logits, labels, weight=0), cross_entropy(logits, labels))
    torch.testing.assert_close(label_smoothing(logits, labels, smoothing=0), cross_entropy(logits, labels))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range(logits, labels, smoothing):
    with pytest.raises(InputError, match=f"smoothing is {smoothing}"):
        label_smoothing(logits, labels, smoothing=smoothing)


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_weight_out_of_range(logits, labels, weight):
    with pytest.raises(InputError, match=f"is {weight}"):
        confidence_penalty(logits, labels, weight=weight)
