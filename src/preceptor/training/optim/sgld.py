"""Stochastic gradient Langevin dynamics: an optimizer whose weights along training are samples of a posterior."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from preceptor.errors import InputError


class SGLD(torch.optim.Optimizer):
    """theta <- theta - lr g + sqrt(2 lr T / N) z, with g the gradient of the mean loss + weight_decay theta, z normal.

    Welling and Teh 2011 (their epsilon is 2 lr / N). As lr falls towards 0 the weights are samples from a density in
    proportion to exp(-N (loss + weight_decay |theta|^2 / 2) / T): under cross-entropy and at T = 1 the posterior of N
    samples with a normal prior of precision N weight_decay. The paper's rate falls as (a + t)^-b; here the schedule
    says how.

    The noise is drawn by a generator of the optimizer's own, which `seed` sets before each step: nothing of it needs to
    be saved, and every process draws the same.

    Args:
        params: to be optimized, or groups of them.
        lr: the learning rate.
        num_samples: N, of the training set.
        temperature: T; below 1 a colder posterior, at 0 plain gradient descent.
        weight_decay: added to the gradient, times the parameter.

    Raises:
        InputError: no samples, or a negative rate, temperature or weight decay.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = SGLD([weight], lr=0.5, num_samples=100, temperature=0.0, weight_decay=1.0)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> weight.tolist()
    [0.0, 0.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        num_samples: int,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        if num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; give the size of the training set")
        for name, value in (("lr", lr), ("temperature", temperature), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise InputError(f"{name} of sgld is {value}; give 0 or more")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.num_samples: int = num_samples
        self.temperature: float = temperature
        self._seed: int = 0

    def seed(self, number: int) -> None:
        """Say what the noise of the next step is drawn from."""
        self._seed = number

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            rate = float(group["lr"])
            spread = math.sqrt(2 * rate * self.temperature / self.num_samples)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                device = parameter.device
                if device not in generators:
                    generators[device] = torch.Generator(device).manual_seed(self._seed)
                noise = torch.empty_like(parameter).normal_(generator=generators[device])
                change = parameter.grad.add(parameter, alpha=group["weight_decay"])
                parameter.add_(change, alpha=-rate).add_(noise, alpha=spread)
        return loss
