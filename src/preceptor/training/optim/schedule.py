"""Optimizers by name, and learning-rate schedules as pure functions of the step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from preceptor.recipe import Optimizer, Schedule
from preceptor.training.optim.sgld import SGLD


def make_optimizer(parameters: Iterable[Any], recipe: Optimizer, *, num_samples: int = 1) -> torch.optim.Optimizer:
    """SGD, AdamW or SGLD over all parameters, which are on their device already, or over groups of them.

    Args:
        num_samples: of the training set, which SGLD must know.
    """
    parameters = list(parameters)
    if recipe.name == "sgld":
        more = {"temperature": recipe.noise_temperature, "weight_decay": recipe.weight_decay}
        return SGLD(parameters, recipe.lr, num_samples=num_samples, **more)
    devices = {p.device.type for each in parameters for p in (each["params"] if isinstance(each, dict) else [each])}
    if recipe.name == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=devices <= {"cpu", "cuda"} or None,  # one pass over memory: 3 to 10 times faster on a CPU
        )
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=devices == {"cuda"} or None,
    )


def multiplier(schedule: Schedule, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate at optimizer step `step` (from 0) as a multiple of the base rate.

    Warm-up rises linearly over the first steps; ``cosine`` then falls towards ``final``, which it would reach one step
    after the last (of 10 steps the last is at 0.024); ``step`` multiplies by ``factor`` at each milestone.
    ``one_cycle`` rises from ``initial`` to 1 at the last step of its warm-up and falls to ``final`` at the last step of
    all (Smith and Topin 2018), as torch's `OneCycleLR` does with linear annealing and a momentum that stays.
    ``cyclic`` is ``cycles`` cosines of one length, each from 1 (snapshot ensembles, arXiv 1704.00109).

    >>> [round(multiplier(Schedule(), step, steps_per_epoch=2, epochs=2), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    warmup, total = round(schedule.warmup_epochs * steps_per_epoch), epochs * steps_per_epoch
    if schedule.name == "one_cycle":
        peak = warmup - 1
        if step < peak:
            return schedule.initial + (1 - schedule.initial) * step / peak
        return 1 - (1 - schedule.final) * (step - peak) / max(1, total - 1 - peak)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name == "step":
        return schedule.factor ** sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
    if schedule.name == "constant":
        return 1.0
    done, length = step - warmup, max(1, total - warmup)  # of a cosine, in steps
    if schedule.name == "cyclic":
        length //= schedule.cycles
        done %= length
    progress = done / length
    return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, rates: float | Sequence[Any]) -> None:
    """Set the learning rate of every parameter group, or that of each; one that is a tensor stays one."""
    groups = optimizer.param_groups
    each = rates if isinstance(rates, Sequence) else [rates] * len(groups)
    for group, lr in zip(groups, each, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
