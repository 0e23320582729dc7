import copy

import pytest
import torch
from torch import nn

from preceptor.errors import InputError
from preceptor.training.optim.averaging import average_weights


class Stacked(nn.Module):
    """Three linear models as one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, input):
        return input @ self.weight


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def train_a_little(model, step):
    """Change weights and batch-norm statistics in a way that depends on the step."""
    generator = torch.Generator().manual_seed(step)
    model.train()
    model(torch.randn(8, 1, 3, 3, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def floats(model):
    return {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}


def reference(states, kind, decay):
    average = states[0]
    for n, state in enumerate(states[1:], start=1):
        keep = decay if kind == "ema" else n / (n + 1)
        average = {k: keep * average[k] + (1 - keep) * state[k] for k in average}
    return average


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_weights_and_statistics_are_averaged(kind):
    model = network()
    average = average_weights(model, kind=kind, decay=0.8)
    states = []
    for step in range(4):
        train_a_little(model, step)
        average.update_parameters(model)
        states.append(floats(model))
    torch.testing.assert_close(floats(average.module), reference(states, kind, 0.8))
    torch.testing.assert_close(floats(model), states[-1])  # the model itself is left alone


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_state_dict_round_trip(kind):
    model = network()
    average = average_weights(model, kind=kind, decay=0.8)
    for step in range(2):
        train_a_little(model, step)
        average.update_parameters(model)

    resumed_model = copy.deepcopy(model)
    resumed = average_weights(network(), kind=kind, decay=0.8)
    resumed.load_state_dict(average.state_dict())
    for one, other in ((model, average), (resumed_model, resumed)):
        train_a_little(one, 2)
        other.update_parameters(one)
    torch.testing.assert_close(resumed.state_dict(), average.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_stack_is_averaged_model_by_model(kind):
    model = Stacked()
    average = average_weights(model, kind=kind, decay=0.5)
    first = model.weight.detach().clone()
    average.update_parameters(model)
    nn.init.ones_(model.weight)
    average.update_parameters(model)
    torch.testing.assert_close(average.state_dict()["module.weight"], (first + 1) / 2)
    assert average(torch.ones(3, 5, 4)).shape == (3, 5, 2)


def test_bad_input():
    with pytest.raises(InputError, match=r"'mean'.*'ema' or 'swa'"):
        average_weights(nn.Linear(1, 1), kind="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"decay is 1.0"):
        average_weights(nn.Linear(1, 1), decay=1.0)
