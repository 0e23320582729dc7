"""Any map-style data set as a source of whole batches, in which each sample is known by its index."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from preceptor.data.generators import preserved_generators, seed_generators
from preceptor.data.labels import check_labels, one_number
from preceptor.data.streams import require_map_style
from preceptor.errors import InputError

Batch = dict[str, Tensor]


class Indexed(Dataset[Batch]):
    """Any map-style data set as a source of whole batches with a stable index.

    `indexed[[4, 0, 7]]` is a mapping of `input`, `label`, `index` (int64, the positions asked for) and `mask`
    (bool, all True). It is meant for `DataLoader(indexed, batch_size=None, sampler=lists_of_indices)`. A data
    set with a vectorised `fetch(index) -> (inputs, labels)` is asked once a batch (`is_vectorised`), any other once a
    sample.
    Samples that are mappings may bring a `mask` and further keys; `index` is always the position.

    Before each sample that is asked for alone, the global generators of torch (CPU), NumPy and `random` are
    seeded from (seed, epoch, index), and afterwards restored: a user's random transforms give the same
    sample whatever the batch size, the order and the number of workers. It costs about 10 microseconds a
    sample. Set `epoch` before the loader's iterator is made (workers copy the data set; persistent ones
    would keep the old epoch).

    Args:
        dataset: map-style data set of `(input, label)` or of mappings with `input` and `label`.
        num_classes: refuse labels outside [0, num_classes).
        seed: of the samples' own randomness.

    Raises:
        InputError: an iterable-style data set; a label that is not a class; samples that cannot be stacked.

    >>> batch = Indexed([(torch.zeros(2), 0), (torch.ones(2), 1)])[[1]]
    >>> {name: value.tolist() for name, value in batch.items()}
    {'input': [[1.0, 1.0]], 'label': [1], 'index': [1], 'mask': [True]}
    """

    def __init__(self, dataset: Any, *, num_classes: int | None = None, seed: int = 0) -> None:
        require_map_style(dataset)
        self.dataset = dataset
        self.num_classes = num_classes
        self.seed = seed
        self.epoch = 0
        self.is_vectorised: bool = is_vectorised(dataset)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self._fetch(index) if self.is_vectorised else self._collate(index.tolist())
        mask = batch["mask"].bool() if "mask" in batch else torch.ones(len(index), dtype=torch.bool)
        label = check_labels(batch["label"], self.num_classes, index=index, mask=mask)
        return {**batch, "label": label, "index": index, "mask": mask}

    def _fetch(self, index: Tensor) -> Batch:
        inputs, labels = self.dataset.fetch(index)
        return {"input": inputs, "label": labels.reshape(len(index)) if labels.numel() == len(index) else labels}

    def _collate(self, indices: list[int]) -> Batch:
        with preserved_generators():
            samples = [self._sample(index) for index in indices]
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            raise InputError(f"samples {shortened(indices)} cannot be stacked into one batch: {error}") from error

    def _sample(self, index: int) -> dict[str, Any]:
        seed_generators(self.seed, self.epoch, index)
        sample = self.dataset[index]
        value, label = input_and_label(sample)
        if not isinstance(sample, Mapping):
            return {"input": value, "label": one_number(label)}
        return {**sample, "label": label if "mask" in sample else one_number(label)}


def input_and_label(sample: Any) -> tuple[Any, Any]:
    """The two parts that every sample has, be it a pair or a mapping."""
    if isinstance(sample, Mapping) and "input" in sample and "label" in sample:
        return sample["input"], sample["label"]
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    found = f"a mapping of {sorted(map(str, sample))}" if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
    raise InputError(
        f"a sample of the data set is {found}; it must be (input, label) or a mapping with 'input' and 'label'"
    )


def is_vectorised(dataset: Any) -> bool:
    """Whether a data set has a `fetch(index) -> (inputs, labels)`, and not some other method of that name.

    It is called for the first sample, and must give its label.

    >>> is_vectorised([(torch.zeros(2), 1)])
    False
    """
    fetch = getattr(dataset, "fetch", None)
    if not callable(fetch) or len(dataset) == 0:
        return False
    try:
        inputs, labels = cast(Any, fetch(torch.tensor([0])))
        with preserved_generators():
            label = input_and_label(dataset[0])[1]
        return len(inputs) == len(labels) == 1 and bool(one_number(labels) == one_number(label))
    except Exception:  # whatever a method of somebody's raises, it is not this one
        return False


def shortened(values: Sequence[int], most: int = 5) -> str:
    """A list for an error sentence: the first few."""
    tail = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + tail
