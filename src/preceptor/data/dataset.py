"""What a data set is to Preceptor: arrays in memory, batches with a stable index, held-out samples told apart."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset

from preceptor.data.class_names import are_numbers, as_names, names_of, numbered, refuse_difference
from preceptor.data.generators import preserved_generators, seed_generators
from preceptor.data.indexed import Batch, Indexed, input_and_label, shortened
from preceptor.data.labelled import labels_of
from preceptor.data.labels import check_labels, dense_tensor, expanded
from preceptor.data.streams import Gathered, check_answers, require_map_style
from preceptor.data.tokenizers import Tokenizer
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


@dataclass(frozen=True)
class Data:
    """A training set, a test set if there is one, and what a reader of the weights must know about them.

    Both sets are map-style data sets of `(input, label)`, or of mappings with the keys `input` and `label`.
    `class_names[c]` names label `c`; `preprocessing` says in JSON how raw values became inputs. `pools` gives, for some
    parts of a split (`train`, `heldout`, `transfer`, `test`), the indices (n,) of the samples of `train` that the part
    is drawn from: all of them, unless the recipe gives it a size. Parts may share a pool; those without one are drawn
    from the samples that are in none (`with_heldout` adds a validation set so). `origin` is the entry of the recipe
    that these data were loaded by; None for data that somebody made by hand. `collate_fn` makes a batch of a list of
    samples, where they cannot just be stacked (`Indexed`). `tokenizer` is what made tokens of texts, if it is known
    (`preceptor.data.tokens`): a run writes it down.
    """

    train: Dataset[Any]
    test: Dataset[Any] | None
    class_names: tuple[str, ...]
    preprocessing: dict[str, JSON] = field(default_factory=dict)
    pools: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)
    origin: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    collate_fn: Callable[[list[Any]], Any] | None = field(default=None, compare=False, repr=False)
    tokenizer: Tokenizer | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", as_names(self.class_names))

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without a batch axis (the first training sample is read); () for arrays by name,
        which have no one shape.
        """
        value, _ = input_and_label(self.train[0])
        if isinstance(value, Mapping):
            return ()
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
        ids: what identifies each sample (N,) to whoever has stored outputs for it (`preceptor.data.ids`).

    Raises:
        InputError: no sample, different lengths, no tensors, or a label that is not a class.

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
        ids: Sequence[Any] | None = None,
    ) -> None:
        self.inputs: Tensor = dense_tensor(inputs, "inputs")
        self.labels: Tensor = _one_a_sample(check_labels(labels, num_classes))
        self.transform = transform
        self.ids: list[Any] | None = None if ids is None else list(ids)
        if self.inputs.ndim == 0:
            raise InputError("the inputs are a single number; give one sample or more along the first axis")
        if self.labels.ndim != 1:
            raise InputError(
                f"the labels have shape {tuple(self.labels.shape)}; one class number per sample is needed, "
                "shape (N,); turn one-hot rows into numbers with argmax"
            )
        if len(self.inputs) != len(self.labels):
            raise InputError(f"there are {len(self.inputs)} inputs but {len(self.labels)} labels; one label per input")
        if len(self.inputs) == 0:
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


def _one_a_sample(labels: Tensor) -> Tensor:
    """Labels (N, 1) as (N,); others as they are."""
    return labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels


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


def of_splits(found: Any) -> Any:
    """A `DatasetDict` of the library `datasets` as the tuple of data sets that it stands for; anything else as it is.

    Raises:
        InputError: splits of other names than ``train``, ``validation`` and ``test``, or no ``train``.
    """
    if type(found).__name__ not in ("DatasetDict", "IterableDatasetDict") or not isinstance(found, Mapping):
        return found
    if "train" not in found or found.keys() - {"train", "validation", "test"}:
        raise InputError(
            f"the data are a {type(found).__name__} of {', '.join(map(str, found))}; give those that are meant as a "
            "tuple, (data['train'], data['test']) or (data['train'], data['validation'], data['test'])",
            argument="data",
        )
    if "validation" in found:
        return found["train"], found["validation"], found.get("test")
    return (found["train"], found["test"]) if "test" in found else found["train"]


def as_data(found: Any, num_classes: int | None = None) -> Data:
    """What a user's factory returned, as `Data`: a `Data`, one map-style data set, or several.

    A pair is (train, test). Three are (train, heldout, test): the validation set `heldout` becomes the held-out part
    (`with_heldout`), and `test` may be None. A `DatasetDict` is these by their names (`of_splits`). An iterable-style
    data set is read into memory (`Gathered`).

    Class names are those that the training set brings (`class_names.names_of`), and those of the other sets must be
    the same; without them they are "0", "1", ... up to the largest training label.

    Args:
        num_classes: how many classes there are, where they have no names and the training samples may lack some.

    Raises:
        InputError: anything else; parts that name their classes otherwise; another number of names than `num_classes`.

    >>> as_data([(torch.zeros(2), 0), (torch.zeros(2), 1)]).class_names
    ('0', '1')
    """
    found = of_splits(found)
    if isinstance(found, Data):
        data = replace(found, train=_gathered(found.train), test=_gathered(found.test))
        for part in (data.train, data.test):
            if part is not None:
                check_answers(part)
        _check_names(data)
        return _with_classes(data if _streams(found) else found, num_classes)
    several = isinstance(found, tuple) and len(found) in (2, 3)
    if (
        not several
        and isinstance(found, tuple | list)
        and any(isinstance(part, Dataset | DataLoader) for part in found)
    ):
        raise InputError(
            f"the data are a {type(found).__name__} of {len(found)} data sets; give a tuple of two, (train, test), or "
            "of three, (train, heldout, test)"
        )
    train, *heldout, test = map(_gathered, found if several else (found, None))
    for part in (train, *heldout, *([] if test is None else [test])):
        require_map_style(part)
    names = names_of(train)
    data = Data(train, test, numbered(labels_of(train), num_classes) if names is None else names)
    _check_names(data)
    data = _with_classes(data, num_classes)
    return with_heldout(data, heldout[0]) if heldout else data


def _streams(data: Data) -> bool:
    return isinstance(data.train, IterableDataset) or isinstance(data.test, IterableDataset)


def _check_names(data: Data) -> None:
    """Refuse parts that name their classes otherwise, and names that are those of the training set in another order."""
    own, test = names_of(data.train), None if data.test is None else names_of(data.test)
    if own is not None and set(own) == set(data.class_names):  # else it is somebody's choice to call them otherwise
        refuse_difference(data.class_names, own, "the class names that were given", "the training set")
    reference = data.class_names if own is None else own
    if test is not None and not are_numbers(reference):
        refuse_difference(reference, test, "the training set", "the test set")


def _with_classes(data: Data, num_classes: int | None) -> Data:
    """`data` with so many classes, which have no names."""
    if num_classes in (None, data.num_classes):
        return data
    if not are_numbers(data.class_names) or num_classes < data.num_classes:  # type: ignore[operator]
        raise InputError(
            f"num_classes is {num_classes} and the data have {data.num_classes} classes, '{data.class_names[0]}' "
            f"to '{data.class_names[-1]}'; leave num_classes out"
        )
    return replace(data, class_names=as_names(num_classes))


def with_heldout(data: Data, heldout: Dataset[Any]) -> Data:
    """`data` with the samples of `heldout` behind its training samples, as the pool of the part `heldout`.

    Args:
        data: with a map-style training set, and no held-out samples of its own.
        heldout: a map-style data set of samples like those of `data.train`: a validation set.

    Raises:
        InputError: there are held-out samples already, or `heldout` is no map-style data set, empty, or names its
            classes otherwise.

    >>> data = as_data([(torch.zeros(2), 0), (torch.ones(2), 1)])
    >>> with_heldout(data, [(torch.ones(2), 1)]).pools
    {'heldout': tensor([2])}
    """
    require_map_style(heldout)
    own, others = names_of(data.train), names_of(heldout)
    reference = data.class_names if own is None else own
    if others is not None and not are_numbers(reference):
        refuse_difference(reference, others, "the training set", "the held-out set")
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
        ids = None if one.ids is None or other.ids is None else one.ids + other.ids
        return ArrayDataset(inputs, labels, transform=one.transform, ids=ids)
    return ConcatDataset([one, other])


def _gathered(dataset: Any) -> Any:
    """A stream as something with numbered samples; anything else as it is."""
    return Gathered(dataset) if isinstance(dataset, IterableDataset) else dataset
