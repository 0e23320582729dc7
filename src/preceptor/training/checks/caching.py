"""Whether a teacher may be asked once for all: where what it reads, and what it says to that, never changes."""

import time
from itertools import pairwise

import torch
from torch import Tensor

from preceptor.data.dataset import Batch, Indexed
from preceptor.data.readings import known_to_repeat
from preceptor.inputs import batch_to, device_of, equal
from preceptor.notices import note, say
from preceptor.tasks.teacher import Leaf, TeacherFn, leaves, of_all_classes
from preceptor.training.checks.probe import drawing_nothing, spread

_BATCH = 256
_LONG = 10.0  # seconds from which on a reading is announced


def same_every_epoch(dataset: Indexed, indices: Tensor) -> bool:
    """Whether the samples at `indices` are the same in every epoch.

    Those of data sets that are known to be so are not looked at. Of any other every sample is read in two epochs or
    more (at least 256 readings in all, so that a rare change of few samples is seen), until one differs.
    """
    if known_to_repeat(dataset.dataset):
        return True
    started, rounds = time.perf_counter(), max(1, -(-_BATCH // len(indices)))
    parts = indices.split(_BATCH)
    try:
        for number, part in enumerate(parts):
            if number == 1:
                _announce(len(parts) * (time.perf_counter() - started), len(indices))
            if not _same(dataset, part.tolist(), rounds):
                return False
    finally:
        dataset.epoch = 0
    seconds = time.perf_counter() - started
    say(f"read {len(indices)} training samples in {rounds + 1} epochs, as they might have differed: {seconds:.1f} s")
    return True


def steady(teacher: TeacherFn, dataset: Indexed, indices: Tensor, device: torch.device | str) -> bool:
    """Whether a teacher says the same to a sample alone, in a pair, and when it is asked again.

    Batch statistics and dropout, say of a function's model that was left in training mode, are found so; it is noted.
    """
    few = spread(indices, 4)
    for one, other in pairwise(few):
        alone, pair = (batch_to(dataset[list(rows)], device) for rows in ([one], [one, other]))
        for part in leaves(teacher):
            if not _repeats(part, alone, pair):
                note(
                    f"the teacher's output for sample {one} is another one when it is asked again, or for two samples "
                    "at once, so that it is asked in every step; is its model in training mode?"
                )
                return False
    return True


def _repeats(part: Leaf, alone: Batch, pair: Batch) -> bool:
    """Whether the first sample of both batches has one answer; a batch that is refused is none."""
    try:
        with drawing_nothing(device_of(alone["input"])):
            said = (of_all_classes(part.answer(batch), "a table") for batch in (alone, pair, alone))
            first, second, again = (each[0] for each in said)
    except (RuntimeError, ValueError):
        return False
    return _agree(first, second) and _agree(first, again)


def _agree(one: Tensor, other: Tensor) -> bool:
    """Equal to what rounding leaves, relative to the largest finite logit."""
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()) or not torch.equal(one[~finite].isnan(), other[~finite].isnan()):
        return False
    largest = one[finite].abs().amax() if finite.any() else one.new_zeros(())
    return bool(((one - other)[finite].abs() <= _tolerance(one) * largest).all())


def _tolerance(said: Tensor) -> float:
    if said.dtype in (torch.float16, torch.bfloat16):
        return 2e-2
    return 2e-3 if said.is_cuda and torch.backends.cudnn.allow_tf32 else 1e-4


def _same(dataset: Indexed, rows: list[int], rounds: int) -> bool:
    first = _read(dataset, rows, 0)
    return all(_equal(first, _read(dataset, rows, epoch)) for epoch in range(1, rounds + 1))


def _read(dataset: Indexed, rows: list[int], epoch: int) -> Batch:
    dataset.epoch = epoch
    return dataset[rows]


def _equal(one: Batch, other: Batch) -> bool:
    """Whether two batches are the same in all that a teacher can read."""
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def _announce(seconds: float, samples: int) -> None:
    if seconds > _LONG:
        say(
            f"reading {samples} training samples twice, to see whether the teacher may be asked once for each: about "
            f"{seconds:.0f} s; cache=false does without"
        )
