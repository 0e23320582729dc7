"""Arrays that live on the device that trains, as they are stored: batches are made there, and nothing is sent."""

import weakref

import torch

from preceptor.data.dataset import ArrayDataset, Indexed, check_labels
from preceptor.notices import note

_SHARE = 0.5  # of the device's free memory, what a data set may take
# One copy for whoever trains on a data set, and whoever scores on it, for as long as one of them lives.
_moved: "weakref.WeakKeyDictionary[ArrayDataset, weakref.ref[ArrayDataset]]" = weakref.WeakKeyDictionary()


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
    copy = _moved[arrays]() if arrays in _moved else None
    if copy is None or copy.inputs.device != device:
        copy = _copy(arrays, device)
    if copy is None:
        return samples
    check_labels(arrays.labels, samples.num_classes)
    _moved[arrays] = weakref.ref(copy)
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
