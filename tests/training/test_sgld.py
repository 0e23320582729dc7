"""Langevin dynamics against the stationary laws that it is known to have; runs that resume, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from preceptor.errors import InputError
from preceptor.notices import notes_kept
from preceptor.recipe import Optimizer
from preceptor.training import teach
from preceptor.training.optim.schedule import make_optimizer
from preceptor.training.optim.sgld import SGLD
from training.toys import snapshot, stopped_at, teach_recipe, weights

NOISY = ["optimizer={name: sgld, lr: 0.05}", "training.epochs=3"]


def chains(optimizer: SGLD, weight: nn.Parameter, curvature: float, steps: int) -> torch.Tensor:
    """Many chains at once, an entry of the weight each, on the loss curvature * theta^2 / 2."""
    for step in range(steps):
        weight.grad = curvature * weight.detach()
        optimizer.seed(step)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize(("temperature", "decay"), [(1.0, 0.0), (0.25, 0.0), (1.0, 0.5)])
def test_a_quadratic_loss_has_a_known_stationary_variance(temperature: float, decay: float) -> None:
    weight = nn.Parameter(torch.zeros(40_000))
    optimizer = SGLD([weight], 0.1, num_samples=50, temperature=temperature, weight_decay=decay)
    found = chains(optimizer, weight, curvature=2.0, steps=60)
    # theta' = r theta + s z is a first-order autoregression, with the variance s^2 / (1 - r^2).
    r, s = 1 - 0.1 * (2.0 + decay), math.sqrt(2 * 0.1 * temperature / 50)
    assert found.var().item() == pytest.approx(s * s / (1 - r * r), rel=0.03)
    assert abs(found.mean().item()) < 4 * found.std().item() / math.sqrt(40_000)


def test_small_steps_come_to_the_posterior() -> None:
    """The mean of 20 normal observations: posterior variance 1 / (N + N decay) for a loss of (theta - x)^2 / 2."""
    weight = nn.Parameter(torch.zeros(20_000))
    optimizer = SGLD([weight], 0.02, num_samples=20, weight_decay=0.5)
    for step in range(400):
        weight.grad = weight.detach() - 1.2  # of the mean loss, where the observations have the mean 1.2
        optimizer.seed(step)
        optimizer.step()
    assert weight.mean().item() == pytest.approx(1.2 / 1.5, abs=0.01)
    assert weight.var().item() == pytest.approx(1 / (20 * 1.5), rel=0.05)


def test_without_noise_it_is_gradient_descent() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2))
    cold = make_optimizer([ours], Optimizer(name="sgld", lr=0.3, noise_temperature=0, weight_decay=0.1), num_samples=9)
    plain = torch.optim.SGD([theirs], lr=0.3, weight_decay=0.1)
    for weight, optimizer in ((ours, cold), (theirs, plain)):
        for _ in range(4):
            weight.grad = weight.detach().sin()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_noise_is_that_of_the_step_alone() -> None:
    def noise(seed: int) -> torch.Tensor:
        weight = nn.Parameter(torch.zeros(5))
        optimizer = SGLD([weight], 0.1, num_samples=1)
        weight.grad = torch.zeros(5)
        torch.rand(seed)  # whatever the global generator has come to
        optimizer.seed(seed)
        optimizer.step()
        return weight.detach()

    assert torch.equal(noise(3), noise(3))
    assert not torch.equal(noise(3), noise(4))


def test_a_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe = teach_recipe(*NOISY, "model.dropout=0.1", "training.checkpoint_every=2")
    teach(recipe, tmp_path / "whole")
    for step in (2, 5):
        with stopped_at(step):
            teach(recipe, tmp_path / "broken")
    teach(recipe, tmp_path / "broken")
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")


def test_its_noise_has_a_stream_of_its_own_and_knows_the_training_set(tmp_path: Path) -> None:
    for name, more in {"a": [], "b": ["streams.noise=1"], "c": ["optimizer.noise_temperature=0"]}.items():
        teach(teach_recipe(*NOISY, "training.epochs=1", "training.batch_size=150", *more), tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert not any(torch.equal(a[name], b[name]) for name in a)
    noise = torch.cat([(a[name] - c[name]).flatten() for name in a])  # of one step from the same weights
    assert noise.std().item() == pytest.approx(math.sqrt(2 * 0.05 / 150), rel=0.05)


def test_refused() -> None:
    with notes_kept(), pytest.raises(InputError, match=r"'sgld' draws noise, .* train the\s+models one by one"):
        teach(teach_recipe(*NOISY), seeds=[0, 1])
    with pytest.raises(InputError, match=r"temperature of sgld is -1; give 0 or more"):
        SGLD([nn.Parameter(torch.zeros(1))], 0.1, num_samples=1, temperature=-1)
    with pytest.raises(InputError, match=r"num_samples is 0"):
        SGLD([nn.Parameter(torch.zeros(1))], 0.1, num_samples=0)
