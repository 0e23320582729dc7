"""The engine underneath: accelerate, which ships no types, so that to a type checker its class is `Any`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.state import AcceleratorState

from preceptor.errors import InputError
from preceptor.recipe import Training

if TYPE_CHECKING:
    from typing import Any as Accelerator
else:
    from accelerate import Accelerator

__all__ = ["Accelerator", "make_accelerator", "sum_dtype"]

_HAVE_FLOAT64 = {"cpu", "cuda"}


def make_accelerator(training: Training, folder: Path | None = None) -> Accelerator:
    """An accelerator for a recipe's device, precision and, if there is a run folder, trackers.

    Raises:
        InputError: fp16 on a CPU, where autocast would silently compute in float32; an unknown or missing
            tracker.
    """
    trackers = list(training.trackers) if folder else []
    on_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    if training.precision == "fp16" and on_cpu:
        raise InputError(
            "training.precision is 'fp16', which on a CPU would silently run in float32; use bf16 or fp32 there"
        )
    AcceleratorState._reset_state()  # several runs in one process may differ in precision
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no supported trackers")  # refused below
            accelerator = Accelerator(
                cpu=training.device == "cpu",
                mixed_precision="no" if training.precision == "fp32" else training.precision,
                log_with=trackers or None,  # type: ignore[arg-type]
                project_dir=str(folder) if folder else None,
            )
    except ValueError as error:
        raise InputError(f"training.trackers is {trackers}: {error}") from None
    missing = set(trackers) - {str(tracker) for tracker in accelerator.log_with}
    if missing:  # accelerate would go on without it
        name = min(missing)
        raise InputError(f"the tracker '{name}' is not installed; run pip install {name}, or remove it")
    return accelerator


def sum_dtype(device: torch.device) -> torch.dtype:
    """In what an epoch's sums are kept: float64, where the device has it (MPS and some others do not)."""
    return torch.float64 if device.type in _HAVE_FLOAT64 else torch.float32
