"""The engine underneath: accelerate, which ships no types, so that to a type checker its class is `Any`."""

import ctypes
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs

from preceptor.errors import InputError
from preceptor.notices import say
from preceptor.recipe import Training

if TYPE_CHECKING:
    from typing import Any as Accelerator
else:
    from accelerate import Accelerator

__all__ = ["Accelerator", "fast_precision", "make_accelerator", "sum_dtype"]

_HAVE_FLOAT64 = {"cpu", "cuda"}
# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def make_accelerator(training: Training, folder: Path | None = None) -> Accelerator:
    """An accelerator for a recipe's device, precision and, if there is a run folder, trackers.

    Raises:
        InputError: fp16 on a CPU, where autocast would silently compute in float32; an unknown or missing
            tracker.
    """
    trackers = list(training.trackers) if folder else []
    on_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    precision = training.precision
    if on_cpu:
        keep_freed_memory()
    if precision == "auto":
        precision = fast_precision("cpu" if on_cpu else torch.accelerator.current_accelerator().type)  # type: ignore[union-attr]
        say(f"precision: {precision}, as training.precision is 'auto'")
    if precision == "fp16" and on_cpu:
        raise InputError(
            "training.precision is 'fp16', which on a CPU would silently run in float32; use bf16 or fp32 there"
        )
    AcceleratorState._reset_state()  # several runs in one process may differ in precision
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no supported trackers")  # refused below
            accelerator = Accelerator(
                cpu=training.device == "cpu",
                mixed_precision="no" if precision == "fp32" else precision,
                # A graph that is captured must cast the weights itself.
                kwargs_handlers=[AutocastKwargs(cache_enabled=not training.compile)],
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


def fast_precision(device: str) -> str:
    """``bf16`` where the processor computes in it, else ``fp32``; so too where an older torch does not know its CPU.

    Args:
        device: a type of device: ``cpu``, ``cuda``...
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else "fp32"
    return "fp32"


def keep_freed_memory() -> None:
    """Let the C library keep what a training step frees for the next one, where it is glibc.

    By itself it gives every tensor above 32 MiB back to the system, which must clear its pages anew in each step: a
    batch of 512 images of 32x32 was slower than one of 64 for that alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def sum_dtype(device: torch.device) -> torch.dtype:
    """In what an epoch's sums are kept: float64, where the device has it (MPS and some others do not)."""
    return torch.float64 if device.type in _HAVE_FLOAT64 else torch.float32
