"""Where the machine sets limits: memory that a step does not fit into, data that are slow to read, parts of a batch."""

import time
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from preceptor.errors import InputError
from preceptor.notices import say
from preceptor.recipe import Training
from preceptor.tasks.stack import Stack
from preceptor.tasks.task import Task
from preceptor.training.data.batches import Batch, Batches, Source, useful_workers

NOTICED = 5.0  # seconds that an epoch takes before anybody minds what they go into
LOADING = 0.5  # of the time of an epoch: what reading samples may take unnoticed


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(training: Training, device: torch.device, *, saved: bool) -> InputError:
    """What to do where a step does not fit.

    Args:
        saved: the state before it is on disk.
    """
    size = -(-training.batch_size // training.accumulate)
    return InputError(
        f"a batch of {size} samples does not fit into the memory of '{device}'; in a new run set training.batch_size "
        f"below {training.batch_size}, or training.accumulate to {2 * training.accumulate}, which makes the same step "
        f"of smaller parts{'; this run is saved as it is' if saved else ''}"
    )


class Timed:
    """An iterator of batches, and how long its caller has waited for it."""

    seconds: float

    def __init__(self, iterator: Iterator[list[Batch]]) -> None:
        self._iterator, self.seconds = iterator, 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        started = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self.seconds += time.perf_counter() - started


def say_if_loading_limits(loading: float, seconds: float, batches: Source) -> None:
    """Say that data take most of an epoch's time, where processes that load ahead would help.

    It is no note in the result: equal runs have equal ones, whatever the clock says.
    """
    read_one_by_one = isinstance(batches, Batches) and not batches.dataset.is_vectorised
    if seconds > NOTICED and loading > LOADING * seconds and read_one_by_one and useful_workers():
        say(
            f"{100 * loading / seconds:.0f} % of an epoch's time goes into reading samples; training.num_workers: auto "
            f"reads them ahead, here in {useful_workers()} process(es)"
        )


def warn_of_batch_statistics(task: Task, processes: int, accumulate: int) -> None:
    """Say once where micro-batches or processes cannot give what one batch gives."""
    if processes * accumulate == 1:
        return
    model: nn.Module = task.model.template if isinstance(task.model, Stack) else task.model  # type: ignore[assignment]
    modules = [*model.modules(), *(() if task.state is None else task.state.modules())]
    normed = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in modules)
    cause = "batch normalisation" if normed else "a batch-level loss" if task.batch_level else None
    if cause:
        warnings.warn(
            f"{cause} sees one micro-batch at a time: with {processes} process(es) x {accumulate} "
            "micro-batch(es) the "
            "training curve differs from that of one process and one batch",
            stacklevel=3,
        )
