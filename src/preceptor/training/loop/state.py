"""A run's state: what a checkpoint holds, and how a run goes on from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from preceptor.runs import checkpoint, load_weights
from preceptor.tasks.task import Task
from preceptor.training.engine.device import Accelerator, sum_dtype
from preceptor.training.loop.step import Stepper
from preceptor.training.optim.schedule import set_lr


@dataclass
class Progress:
    """How far a run is: everything a checkpoint must know beside tensors."""

    epoch: int = 0
    step: int = 0  # optimizer steps in all
    step_in_epoch: int = 0
    metrics_bytes: int = 0
    best_epoch: list[int] = field(default_factory=list)
    best_score: list[float] = field(default_factory=list)
    stopped: str = ""  # before the last epoch: what by


class Running(Protocol):
    """What of a training loop a checkpoint holds."""

    raw_model: nn.Module
    optimizer: Optimizer
    task: Task
    accelerator: Accelerator
    stepper: Stepper
    averaged: AveragedModel | None
    best: dict[str, Tensor]
    progress: Progress

    @property
    def time_total(self) -> float:
        """Seconds of work so far."""
        ...


def write_checkpoint(folder: Path, loop: Running, sums: Mapping[str, Any]) -> bool:
    """Write a checkpoint of this very moment, unless the weights have just diverged: the last good one stays.

    Returns:
        Whether it was written.

    Raises:
        InputError: the disk is full.
    """
    if not _all_finite(loop.raw_model):
        return False
    name = checkpoint.name(loop.progress.epoch, loop.progress.step)
    checkpoint.save(folder, name, _tensors(loop), _rest(loop, sums))
    return True


def _tensors(loop: Running) -> dict[str, Tensor]:
    """All tensors that decide how the run goes on, and the best weights."""
    state = loop.task.state
    scopes: dict[str, Mapping[str, Tensor]] = {
        "model": loop.raw_model.state_dict(),
        "optimizer": checkpoint.flatten_optimizer(loop.optimizer)[0],
        "best": loop.best,
        "average": loop.averaged.state_dict() if loop.averaged is not None else {},
        "objective": state.state_dict() if state is not None else {},
    }
    return {name: tensor for scope, group in scopes.items() for name, tensor in checkpoint.scoped(scope, group).items()}


def _rest(loop: Running, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else."""
    scaler = loop.accelerator.scaler
    return {
        "progress": vars(loop.progress),
        "sums": sums,
        "optimizer": checkpoint.flatten_optimizer(loop.optimizer)[1],
        "streams": loop.stepper.streams.seeds,
        "scaler": scaler.state_dict() if scaler else None,
        "time_total": round(loop.time_total, 3),
    }


def read_checkpoint(path: Path, loop: Running) -> float:
    """Put a run back to where a checkpoint was written; return the seconds of work that led there.

    Raises:
        InputError: the checkpoint is damaged or of another model.
    """
    tensors, rest = checkpoint.load(path)
    device, state, scaler = loop.accelerator.device, loop.task.state, loop.accelerator.scaler
    load_weights(loop.raw_model, checkpoint.within("model", tensors), f"the checkpoint '{path}'")
    loop.stepper.rewind(rest["progress"]["step"])
    checkpoint.restore_optimizer(loop.optimizer, checkpoint.within("optimizer", tensors), rest["optimizer"])
    if loop.stepper.scheduler is not None:
        set_lr(loop.optimizer, loop.stepper.rates)  # the same, unless this run goes on from another's end
    loop.best = {name: tensor.to(device) for name, tensor in checkpoint.within("best", tensors).items()}
    if loop.averaged is not None:
        loop.averaged.load_state_dict(checkpoint.within("average", tensors))
    if state is not None:
        load_weights(state, checkpoint.within("objective", tensors), f"the objective in '{path}'")
    if scaler and rest["scaler"]:
        scaler.load_state_dict(rest["scaler"])
    for name, total in rest["sums"].items():
        share = torch.tensor(total, dtype=sum_dtype(device), device=device)
        loop.stepper.sums[name] = share if loop.accelerator.is_main_process else torch.zeros_like(share)
    loop.progress = Progress(**rest["progress"])
    # JSON has no infinity: it is stored as null.
    loop.progress.best_score = [math.inf if score is None else score for score in loop.progress.best_score]
    return rest.get("time_total", 0.0)  # older checkpoints do not say


def _all_finite(model: nn.Module) -> bool:
    return bool(torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all())
