"""Arrays that live on the device that trains, as they are stored: batches are made there, and nothing is sent."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preceptor.data.dataset import ArrayDataset, Indexed, check_labels
from preceptor.notices import note

_SHARE = 0.5  # of the device's free memory, what a data set may take


@dataclass(frozen=True)
class _Moved:
    """A copy of arrays on a device, which those who use it hold, and what the arrays were when it was made."""

    copy: "weakref.ref[ArrayDataset]"
    device: torch.device
    made_of: list[tuple[Callable[[], Tensor | None], int]]

    def of(self, arrays: ArrayDataset, device: torch.device) -> ArrayDataset | None:
        """The copy, if there still is one of just these arrays; what NumPy writes into their memory is not noticed."""
        copy = self.copy()
        made_of = [(tensor(), version) for tensor, version in self.made_of]
        same = all(one is other and v == w for (one, v), (other, w) in zip(made_of, _versions(arrays), strict=True))
        if copy is None or device != self.device or not same or copy.transform is not arrays.transform:
            return None
        return copy


def _versions(arrays: ArrayDataset) -> list[tuple[Tensor, int]]:
    """The tensors, and how often each was changed in place, as torch counts it."""
    return [(each, 0 if each.is_inference() else each._version) for each in (arrays.inputs, arrays.labels)]


# One copy for whoever trains on a data set, and whoever scores on it, for as long as one of them lives.
_moved: "weakref.WeakKeyDictionary[ArrayDataset, _Moved]" = weakref.WeakKeyDictionary()


def resident(samples: Indexed, device: torch.device) -> Indexed:
    """The same samples held on `device`, where they are arrays that fit; else `samples` as they are.

    Stored bytes stay bytes there: a transform such as a normalisation is applied to each batch.

    Args:
        samples: of a data set whose labels are looked at here, once.
        device: where a batch is wanted.
    """
    arrays = samples.dataset
    if type(arrays) is not ArrayDataset or device.type != "cuda":
        return samples
    copy = _moved[arrays].of(arrays, device) if arrays in _moved else None
    if copy is None:
        copy = _copy(arrays, device)
        if copy is None:
            return samples
        made_of: Any = [(weakref.ref(tensor), version) for tensor, version in _versions(arrays)]
        _moved[arrays] = _Moved(weakref.ref(copy), device, made_of)
    check_labels(arrays.labels, samples.num_classes)
    return Indexed(copy, num_classes=samples.num_classes, seed=samples.seed, checked=True)


def _copy(arrays: ArrayDataset, device: torch.device) -> ArrayDataset | None:
    """A copy on a device, if there is room for it and the transform works there."""
    if arrays.inputs.nbytes + arrays.labels.nbytes > _SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    try:
        copy = ArrayDataset(arrays.inputs.to(device), arrays.labels.to(device), transform=arrays.transform)
        if copy.fetch([0, 0])[0].device == copy.inputs.device:
            return copy
    except (RuntimeError, TypeError):  # a transform of somebody's, made for the CPU
        pass
    note(f"the data stay on the CPU, as their transform does not work on '{device}'; each batch is sent")
    return None
