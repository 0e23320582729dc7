"""What a data set is to Preceptor: arrays in memory, batches with a stable index, held-out samples told apart."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, default_collate

from preceptor.data.generators import preserved_generators, seed_generators
from preceptor.data.labels import check_labels, expanded
from preceptor.data.streams import Gathered, require_map_style
from preceptor.errors import InputError

__all__ = [
    "JSON",
    "ArrayDataset",
    "Batch",
    "Data",
    "Gathered",
    "Indexed",
    "as_data",
    "check_labels",
    "expanded",
    "input_and_label",
    "labels_of",
    "preserved_generators",
    "require_index",
    "require_map_style",
    "seed_generators",
    "shortened",
    "with_heldout",
]

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """A training set, a test set if there is one, and what a reader of the weights must know about them.

    Both sets are map-style data sets of `(input, label)`, or of mappings with the keys `input` and `label`.
    `class_names[c]` names label `c`; `preprocessing` says in JSON how raw values became inputs. `pools` gives, for some
    parts of a split (`train`, `heldout`, `transfer`, `test`), the indices (n,) of the samples of `train` that the part
    is drawn from: all of them, unless the recipe gives it a size. Parts may share a pool; those without one are drawn
    from the samples that are in none (`with_heldout` adds a validation set so). `origin` is the entry of the recipe
    that these data were loaded by; None for data that somebody made by hand.
    """

    train: Dataset[Any]
    test: Dataset[Any] | None
    class_names: tuple[str, ...]
    preprocessing: dict[str, JSON] = field(default_factory=dict)
    pools: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)
    origin: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without a batch axis (the first training sample is read)."""
        value, _ = input_and_label(self.train[0])
        if not isinstance(value, Tensor | np.ndarray):
            raise InputError(
                f"the input of training sample 0 is a {type(value).__name__}, not a tensor; give the data "
                "set a transform that makes tensors"
            )
        return tuple(value.shape)


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """A data set held in memory.

    Args:
        inputs: any dtype, samples along the first axis.
        labels: integers (N,); kept as int64.
        num_classes: refuse labels outside [0, num_classes); without it only negative ones are refused.
        transform: applied to a whole batch of inputs (B, ...) each time one is fetched, and so deterministic;
            random augmentation belongs to `preceptor.data.augment`.

    Raises:
        InputError: no sample, different lengths, or a label that is not a class.

    >>> dataset = ArrayDataset(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    >>> dataset[1]
    (tensor([2., 3.]), tensor(1))
    >>> dataset.fetch([2, 0])[0]
    tensor([[4., 5.],
            [0., 1.]])
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Any,
        *,
        num_classes: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels: Tensor = check_labels(labels, num_classes)
        self.transform = transform
        if self.labels.ndim != 1:
            raise InputError(
                f"the labels have shape {tuple(self.labels.shape)}; one class number per sample is needed, "
                "shape (N,); turn one-hot rows into numbers with argmax"
            )
        if len(inputs) != len(self.labels):
            raise InputError(f"there are {len(inputs)} inputs but {len(self.labels)} labels; one label per input")
        if len(inputs) == 0:
            raise InputError("the data set is empty; at least one sample is needed")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        inputs, labels = self.fetch([index])
        return inputs[0], labels[0]

    def fetch(self, index: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples at `index`, in that order, as one batch of inputs (B, ...) and labels (B,)."""
        index = torch.as_tensor(index, dtype=torch.int64)
        inputs = self.inputs[index]
        return (inputs if self.transform is None else self.transform(inputs)), self.labels[index]


class Indexed(Dataset[Batch]):
    """Any map-style data set as a source of whole batches with a stable index.

    `indexed[[4, 0, 7]]` is a mapping of `input`, `label`, `index` (int64, the positions asked for) and `mask`
    (bool, all True). It is meant for `DataLoader(indexed, batch_size=None, sampler=lists_of_indices)`. A data
    set with a vectorised `fetch(index) -> (inputs, labels)` is asked once a batch, any other once a sample.
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

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self._fetch(index) if hasattr(self.dataset, "fetch") else self._collate(index.tolist())
        mask = batch["mask"].bool() if "mask" in batch else torch.ones(len(index), dtype=torch.bool)
        label = check_labels(batch["label"], self.num_classes, index=index, mask=mask)
        return {**batch, "label": label, "index": index, "mask": mask}

    def _fetch(self, index: Tensor) -> Batch:
        inputs, labels = self.dataset.fetch(index)
        return {"input": inputs, "label": labels}

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
        return {**sample} if isinstance(sample, Mapping) else {"input": value, "label": label}


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


def labels_of(dataset: Any, num_classes: int | None = None) -> Tensor:
    """Every label of a map-style data set, int64 (N,).

    Read from the attribute `labels` or `targets` where the data set has one (and no `target_transform`), from
    the wrapped sets for `Subset`, `ConcatDataset` and `Indexed`; otherwise each sample is read once.

    >>> labels_of([(torch.zeros(2), 1), (torch.zeros(2), 0)])
    tensor([1, 0])
    """
    if isinstance(dataset, Indexed):
        return labels_of(dataset.dataset, num_classes)
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset, num_classes)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return check_labels(torch.cat([labels_of(part) for part in dataset.datasets]), num_classes)
    if getattr(dataset, "target_transform", None) is None:
        for name in ("labels", "targets"):
            stored = getattr(dataset, name, None)
            if isinstance(stored, Sized) and len(stored) == len(dataset):
                return check_labels(stored, num_classes)
    with preserved_generators():
        labels = [input_and_label(dataset[index])[1] for index in range(len(dataset))]
    return check_labels([label.item() if isinstance(label, Tensor) else label for label in labels], num_classes)


def require_index(dataset: Any, what: str = "this objective") -> None:
    """Refuse a data set whose samples cannot be told apart from one run to the next.

    A map-style data set passes; one gathered from a stream passes if its samples brought an `index`.

    Raises:
        InputError: naming `what` needs the index, and the two remedies.
    """
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            require_index(part, what)
    if isinstance(dataset, Gathered) and not dataset.has_index:
        raise InputError(
            f"{what} needs to know each sample again, but {dataset.name} is iterable-style and its "
            "samples carry no index; yield mappings with 'input', 'label', 'index', or use a map-style one"
        )


def as_data(found: Any) -> Data:
    """What a user's factory returned, as `Data`: a `Data`, one map-style data set, or several.

    A pair is (train, test). Three are (train, heldout, test): the validation set `heldout` becomes the held-out part
    (`with_heldout`), and `test` may be None. An iterable-style data set is read into memory (`Gathered`).

    Class names are taken from the training set's `classes` or `class_names`; without them they are "0", "1",
    ... up to the largest training label.

    Raises:
        InputError: anything else.

    >>> as_data([(torch.zeros(2), 0), (torch.zeros(2), 1)]).class_names
    ('0', '1')
    """
    if isinstance(found, Data):
        streams = isinstance(found.train, IterableDataset) or isinstance(found.test, IterableDataset)
        return replace(found, train=_gathered(found.train), test=_gathered(found.test)) if streams else found
    several = isinstance(found, tuple) and len(found) in (2, 3)
    train, *heldout, test = map(_gathered, found if several else (found, None))
    for part in (train, *heldout, *([] if test is None else [test])):
        require_map_style(part)
    names = getattr(train, "classes", None) or getattr(train, "class_names", None)
    if names is None:
        names = range(int(labels_of(train).max()) + 1)
    data = Data(train, test, tuple(str(name) for name in names))
    return with_heldout(data, heldout[0]) if heldout else data


def with_heldout(data: Data, heldout: Dataset[Any]) -> Data:
    """`data` with the samples of `heldout` behind its training samples, as the pool of the part `heldout`.

    Args:
        data: with a map-style training set, and no held-out samples of its own.
        heldout: a map-style data set of samples like those of `data.train`: a validation set.

    Raises:
        InputError: there are held-out samples already, or `heldout` is no map-style data set or empty.

    >>> data = as_data([(torch.zeros(2), 0), (torch.ones(2), 1)])
    >>> with_heldout(data, [(torch.ones(2), 1)]).pools
    {'heldout': tensor([2])}
    """
    require_map_style(heldout)
    pools = dict(data.pools or {})
    if "heldout" in pools:
        raise InputError("the data have a pool for the part 'heldout' already; leave one of the two out")
    first, count = len(cast(Sized, data.train)), len(cast(Sized, heldout))
    if count == 0:
        raise InputError("the held-out set is empty; at least one sample of each of two classes is needed")
    return replace(
        data, train=_joined(data.train, heldout), pools=pools | {"heldout": torch.arange(first, first + count)}
    )


def _joined(one: Any, other: Any) -> Dataset[Any]:
    """Two data sets as one; arrays under one transform stay arrays, which are fetched a batch at a time."""
    arrays = type(one) is type(other) is ArrayDataset and one.transform == other.transform
    if arrays and one.inputs.dtype == other.inputs.dtype and one.inputs.shape[1:] == other.inputs.shape[1:]:
        inputs, labels = torch.cat([one.inputs, other.inputs]), torch.cat([one.labels, other.labels])
        return ArrayDataset(inputs, labels, transform=one.transform)
    return ConcatDataset([one, other])


def _gathered(dataset: Any) -> Any:
    """A stream as something with numbered samples; anything else as it is."""
    return Gathered(dataset) if isinstance(dataset, IterableDataset) else dataset


def shortened(values: Sequence[int], most: int = 5) -> str:
    """A list for an error sentence: the first few."""
    tail = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + tail
