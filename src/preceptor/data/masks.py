"""Samples that their data set masks: they count for nothing in training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from preceptor.data.generators import preserved_generators
from preceptor.data.indexed import Indexed, sample_of
from preceptor.errors import InputError

_MOST = 128


def first_masked(dataset: Indexed, indices: Tensor, what: str) -> int | None:
    """The first sample whose mask is False throughout, of at most 128 that are read along `indices`; None if none is.

    Where all of these are masked, the others are read until one is not. A data set whose samples bring no mask is asked
    for one of them.

    Args:
        what: what an error calls the samples.

    Raises:
        InputError: all of the samples at `indices` are masked.

    >>> samples = [{"input": 0.0, "label": 0, "mask": False}, {"input": 0.0, "label": 1, "mask": True}]
    >>> first_masked(Indexed(samples), torch.arange(2), "training")
    0
    """
    if not len(indices) or not _brings_mask(dataset, int(indices[0])):
        return None
    few = indices[torch.linspace(0, len(indices) - 1, min(_MOST, len(indices))).round().to(torch.int64)].tolist()
    masked = [index for index in few if not _counts(dataset, index)]
    if len(masked) == len(few) and not any(_counts(dataset, index) for index in indices.tolist()):
        raise InputError(
            f"all {len(indices)} {what} samples are masked, so that none counts; give a mask that is True where a "
            "sample is to count, or none"
        )
    return next(iter(masked), None)


def _brings_mask(dataset: Indexed, index: int) -> bool:
    with preserved_generators():
        sample = sample_of(dataset.dataset, index)
    return isinstance(sample, Mapping) and "mask" in sample


def _counts(dataset: Indexed, index: int) -> bool:
    return bool(dataset[[index]]["mask"].any())
