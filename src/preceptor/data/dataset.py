"""What a data set is to Preceptor: arrays in memory, batches with a stable index, labels that are checked."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, default_collate

from preceptor.errors import InputError

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


def check_labels(
    labels: Any, num_classes: int | None = None, *, index: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The labels as int64, once each is known to be a class number.

    Args:
        labels: numbers of any shape, samples along the first axis.
        num_classes: the labels must lie in [0, num_classes); without it they must only not be negative.
        index: the samples' positions, for the error sentence; 0, 1, ... without it.
        mask: False where a label is padding and may be anything.

    Raises:
        InputError: a fractional, NaN, negative or too large label, with its sample and value.

    >>> check_labels([0, 2, 7], 3)
    Traceback (most recent call last):
    preceptor.errors.InputError: the label of sample 2 is 7; with 3 classes labels are integers from 0 to 2
    """
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the labels are not numbers ({error}); number the classes from 0") from error
    known = torch.ones_like(labels, dtype=torch.bool) if mask is None else expanded(mask.bool(), labels)
    wanted = "labels are integers from 0"
    if num_classes is not None:
        wanted = f"with {num_classes} classes {wanted} to {num_classes - 1}"
    if labels.is_floating_point() or labels.is_complex():
        if labels.is_floating_point():
            _refuse(labels, (labels != labels.round()) & known, wanted, index)
        raise InputError(f"the labels have dtype {labels.dtype}, not an integer one: {wanted}; convert with .long()")
    labels = labels.to(torch.int64)
    bad = (labels < 0) if num_classes is None else (labels < 0) | (labels >= num_classes)
    _refuse(labels, bad & known, wanted, index)
    return labels


def _refuse(labels: Tensor, bad: Tensor, wanted: str, index: Tensor | None) -> None:
    """Name the first bad label."""
    if not bad.any():
        return
    first = bad.nonzero()[0]
    row = int(first[0]) if len(first) else 0
    sample = row if index is None else int(index[row])
    raise InputError(f"the label of sample {sample} is {labels[tuple(first)].item()}; {wanted}")


def expanded(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of the first axes, spread over the axes of `like` that follow."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim)).expand_as(like)


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


def require_map_style(dataset: Any) -> None:
    """Refuse what cannot be asked for its samples by number.

    Raises:
        InputError: an iterable-style data set, or no data set at all.
    """
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"{type(dataset).__name__} can only be iterated, so its samples have no stable index; give a "
            "map-style data set (one with __getitem__ and __len__)"
        )
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not numbered or isinstance(dataset, Mapping | str | Tensor):
        raise InputError(
            f"a {type(dataset).__name__} is no data set; give a map-style torch data set, (train, test) or "
            "(train, heldout, test) of those, or a preceptor.data.dataset.Data"
        )


class Gathered(Dataset[Any]):
    """An iterable-style data set that was read once, into memory, so that its samples can be shuffled and split.

    Samples that are mappings with an `index` are put into its order; others stay in the order in which they came, which
    another reading of the stream may not repeat (`has_index` is False).

    Args:
        stream: an iterable-style data set with a `__len__`, which says that it ends.

    Raises:
        InputError: no `__len__`, a length that is not kept, or an index that two samples share.
    """

    def __init__(self, stream: "IterableDataset[Any]") -> None:
        name = type(stream).__name__
        if not isinstance(stream, Sized):
            raise InputError(
                f"{name} can only be iterated and does not say how long it is; give it a __len__, and it is read into "
                "memory, or give a map-style data set (one with __getitem__ and __len__)"
            )
        samples = list(itertools.islice(stream, len(stream) + 1))
        if len(samples) != len(stream):
            found = "more" if len(samples) > len(stream) else str(len(samples))
            raise InputError(f"{name} says that it holds {len(stream)} samples and gives {found}; mend its __len__")
        self.name: str = name
        self.has_index: bool = all(isinstance(sample, Mapping) and "index" in sample for sample in samples)
        if self.has_index:
            samples.sort(key=lambda sample: int(sample["index"]))
            for one, other in itertools.pairwise(samples):
                if int(one["index"]) == int(other["index"]):
                    raise InputError(f"{name} gives the index {int(one['index'])} to two samples; number each once")
        self.samples: list[Any] = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


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


def seed_generators(*key: int) -> None:
    """Seed the global generators of torch (CPU only), NumPy and `random` from a hash of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the transforms of others draw from this one
    random.seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Leave the global generators of torch (CPU), NumPy and `random` as they were found."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def shortened(values: Sequence[int], most: int = 5) -> str:
    """A list for an error sentence: the first few."""
    tail = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + tail
