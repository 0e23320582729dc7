"""Fully connected networks."""

import pytest
import torch
from torch import nn

from preceptor.models import mlp


@pytest.mark.parametrize("hidden", [(), (7,), [16, 8]])
def test_widths(hidden):
    model = mlp(num_classes=5, input_shape=(1, 4, 4), hidden=hidden)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in linear] == [16, *hidden]
    assert [layer.out_features for layer in linear] == [*hidden, 5]


def test_dropout_is_there_only_when_asked_for():
    model = mlp(num_classes=5, input_shape=(16,), dropout=0.5)
    assert sum(isinstance(module, nn.Dropout) for module in model) == 2
    inputs = torch.ones(1, 16)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model(inputs))
    assert not any(isinstance(module, nn.Dropout) for module in mlp(num_classes=5, input_shape=(16,)))
