"""Any map-style data set as a source of whole batches, in which each sample is known by its index."""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from preceptor.data.by_name import named_inputs, tensors_by_name, without_text
from preceptor.data.generators import preserved_generators, seed_generators
from preceptor.data.labels import check_labels, one_number, refuse_masked
from preceptor.data.streams import require_map_style
from preceptor.errors import InputError
from preceptor.inputs import described, tensors_of

Batch = dict[str, Any]
"""Tensors by name, samples first; ``input`` may be a mapping of several."""

_NUMBERS = Tensor | np.ndarray | np.generic | int | float


class Indexed(Dataset[Batch]):
    """Any map-style data set as a source of whole batches with a stable index.

    `indexed[[4, 0, 7]]` is a mapping of `input`, `label`, `index` (int64, the positions asked for) and `mask`
    (bool, all True). It is meant for `DataLoader(indexed, batch_size=None, sampler=lists_of_indices)`. A data
    set with a vectorised `fetch(index) -> (inputs, labels)` is asked once a batch (`is_vectorised`), any other once a
    sample. What it gives may be inputs by name, and several labels a sample; one with an `ignore_index` has a mask that
    is False where a label is that.
    Samples that are mappings may bring a `mask` and further tensors or numbers by name (other things are left out);
    `index` is always the position. An input may be a mapping of arrays, which a model gets as keyword arguments; a
    mapping with `label` or `labels` and without `input` is such a sample, all of whose arrays are inputs.

    Before each sample that is asked for alone, the global generators of torch (CPU), NumPy and `random` are
    seeded from (seed, epoch, index), and afterwards restored: a user's random transforms give the same
    sample whatever the batch size, the order and the number of workers. It costs about 10 microseconds a
    sample. Set `epoch` before the loader's iterator is made (workers copy the data set; persistent ones
    would keep the old epoch).

    Args:
        dataset: map-style data set of `(input, label)` or of mappings with `input` and `label`.
        num_classes: refuse labels outside [0, num_classes).
        seed: of the samples' own randomness.
        checked: the labels are known to be classes; on a GPU to look at them would wait for it.
        collate_fn: from a list of samples to (inputs, labels), or to a mapping with `label` or `labels`, such as the
            collators of transformers, which pad sequences of unlike length.

    Raises:
        InputError: an iterable-style data set; a label that is not a class; a sample that cannot be read or has no
            tensor as its input; samples that cannot be stacked.

    >>> batch = Indexed([(torch.zeros(2), 0), (torch.ones(2), 1)])[[1]]
    >>> {name: value.tolist() for name, value in batch.items()}
    {'input': [[1.0, 1.0]], 'label': [1], 'index': [1], 'mask': [True]}
    """

    def __init__(
        self,
        dataset: Any,
        *,
        num_classes: int | None = None,
        seed: int = 0,
        checked: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        require_map_style(dataset)
        self.dataset = dataset
        self.num_classes = num_classes
        self.seed = seed
        self.checked = checked
        self.collate_fn = collate_fn
        self.epoch = 0
        self.is_vectorised: bool = collate_fn is None and is_vectorised(dataset)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, indices: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self._fetch(index) if self.is_vectorised else self._collate(index.tolist())
        mask = batch["mask"].bool() if "mask" in batch else torch.ones_like(index, dtype=torch.bool)
        if mask.shape != torch.as_tensor(batch["label"]).shape[: mask.ndim]:
            raise InputError(
                f"the mask of sample {int(index[0])} has shape {tuple(mask.shape[1:])} and its label "
                f"{tuple(batch['label'].shape[1:])}; give one bool for each label"
            )
        label = batch["label"]
        if not self.checked:
            label = check_labels(label, self.num_classes, index=index, mask=mask)
        return {**batch, "label": label, "index": index, "mask": mask}

    def _fetch(self, index: Tensor) -> Batch:
        try:
            inputs, labels = self.dataset.fetch(index)
            inputs, labels = tensors_by_name(inputs, index.tolist()), torch.as_tensor(labels)
        except Exception as error:
            raise _unread(f"samples {shortened(index.tolist())}", self.dataset, error) from error
        rows = [len(each) for each in (*tensors_of(inputs), labels)]
        if rows != [len(index)] * len(rows):
            raise InputError(
                f"fetch of the data set gives {rows[0]} inputs and {rows[-1]} labels for {len(index)} samples; "
                "give one of each in the order asked for"
            )
        batch = {"input": inputs, "label": labels.reshape(len(index)) if labels.numel() == len(index) else labels}
        ignored = ignored_by(self.dataset)
        return batch if ignored is None else {**batch, "mask": batch["label"] != ignored}

    def _collate(self, indices: list[int]) -> Batch:
        with preserved_generators():
            if self.collate_fn is not None:
                return self._collated(indices)
            samples = [self._sample(index) for index in indices]
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            remedy = ""
            if isinstance(samples[0]["input"], Mapping):
                remedy = "; give a collate_fn that pads them, such as transformers.DataCollatorWithPadding(tokenizer)"
            raise InputError(
                f"samples {shortened(indices)} cannot be stacked into one batch: {error}{remedy}"
            ) from error

    def _collated(self, indices: list[int]) -> Batch:
        """Somebody's way to make one batch of some samples; what it draws follows from the first of them."""
        assert self.collate_fn is not None
        samples = []
        for index in indices:
            seed_generators(self.seed, self.epoch, index)
            samples.append(without_text(sample_of(self.dataset, index)))
        seed_generators(self.seed, self.epoch, indices[0])
        try:
            made = self.collate_fn(samples)
            value, label = input_and_label(made)
        except Exception as error:  # somebody else's code
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(f"collate_fn cannot make a batch of samples {shortened(indices)}: {reason}") from error
        value = tensors_by_name(value, indices)
        short = next((t for t in tensors_of(value) if t.ndim == 0 or len(t) != len(indices)), None)
        if short is not None or len(torch.as_tensor(label)) != len(indices):
            raise InputError(
                f"collate_fn makes a batch of {described(value)} and {len(torch.as_tensor(label))} labels of "
                f"{len(indices)} samples; give one row and one label for each"
            )
        return {"input": value, "label": torch.as_tensor(label)}

    def _sample(self, index: int) -> dict[str, Any]:
        seed_generators(self.seed, self.epoch, index)
        sample = sample_of(self.dataset, index)
        value, label = input_and_label(sample, index)
        if isinstance(value, Mapping):
            named = {"input": tensors_by_name(value, [index]), "label": one_number(label)}
            return {**named, **_mask_of(sample, index)} if "input" in sample else named
        refuse_masked(value, f"input of sample {index}")
        if not isinstance(value, _NUMBERS):
            raise InputError(
                f"the input of sample {index} is a {type(value).__name__}, not a tensor; give the data set a transform "
                "that makes tensors"
            )
        if not isinstance(sample, Mapping):
            return {"input": value, "label": one_number(label)}
        found = {str(name): each for name, each in sample.items() if isinstance(each, _NUMBERS)}
        mask = _mask_of(sample, index)
        return {**found, "label": label if mask else one_number(label), **mask}


def sample_of(dataset: Any, index: int) -> Any:
    """What a data set gives for a number.

    Raises:
        InputError: it gives nothing, with the number and its own error.
    """
    try:
        return dataset[index]
    except Exception as error:
        raise _unread(f"sample {index}", dataset, error) from error


def _unread(which: str, dataset: Any, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(
        f"{which} of the data set, a {type(dataset).__name__}, cannot be read ({type(error).__name__}: {error}); mend "
        "that or leave it out"
    )


def input_and_label(sample: Any, index: int | None = None) -> tuple[Any, Any]:
    """The two parts that every sample has, be it a pair or a mapping; an error names its `index`."""
    if isinstance(sample, Mapping) and "input" in sample and "label" in sample:
        return sample["input"], sample["label"]
    if isinstance(sample, Mapping) and "input" not in sample and (named := named_inputs(sample)):
        return named, sample["label" if "label" in sample else "labels"]
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    found = f"a {type(sample).__name__}"
    if isinstance(sample, Mapping):
        found = f"a mapping of {sorted(map(str, sample))}"
    elif isinstance(sample, tuple | list):
        found += f" of {len(sample)}"
    which = "a sample" if index is None else f"sample {index}"
    raise InputError(
        f"{which} of the data set is {found}; it must be (input, label) or a mapping with 'input' and 'label'"
    )


def is_vectorised(dataset: Any) -> bool:
    """Whether a data set has a `fetch(index) -> (inputs, labels)`, and not some other method of that name.

    It is called for three samples, and must give their labels in the order asked for.

    >>> is_vectorised([(torch.zeros(2), 1)])
    False
    """
    fetch = getattr(dataset, "fetch", None)
    if not callable(fetch) or len(dataset) == 0:
        return False
    try:
        few = torch.tensor([len(dataset) - 1, 0, len(dataset) // 2])
        inputs, labels = cast(Any, fetch(few))
        with preserved_generators():
            alone = [input_and_label(dataset[index])[1] for index in few.tolist()]
        whole = all(len(each) == 3 for each in (*tensors_of(inputs), labels))
        return whole and all(_same(one, other) for one, other in zip(labels, alone, strict=True))
    except Exception:  # whatever a method of somebody's raises, it is not this one
        return False


def _mask_of(sample: Any, index: int) -> dict[str, Tensor]:
    """The mask that a sample brings, if it is a mapping and brings one."""
    if not isinstance(sample, Mapping) or "mask" not in sample:
        return {}
    try:
        return {"mask": torch.as_tensor(sample["mask"])}
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the mask of sample {index} is {sample['mask']!r}; give one bool for each label") from None


def _same(one: Any, other: Any) -> bool:
    """Whether two labels of a sample are one, be they numbers or a row of them."""
    one, other = one_number(one), one_number(other)
    if isinstance(one, Tensor | np.ndarray) and isinstance(other, Tensor | np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


def ignored_by(dataset: Any) -> int | None:
    """The label of what does not count, where a data set says it has one: its `ignore_index`."""
    found = getattr(dataset, "ignore_index", None)
    return found if isinstance(found, int) else None


def shortened(values: Sequence[int], most: int = 5) -> str:
    """A list for an error sentence: the first few."""
    tail = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + tail
