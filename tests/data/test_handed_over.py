"""Data as people hand them over: taken rightly, or refused in one sentence before anything is trained."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, StackDataset, Subset, TensorDataset

import preceptor
from preceptor.data.class_names import names_of
from preceptor.data.dataset import ArrayDataset, Indexed, as_data
from preceptor.errors import InputError

X, Y = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "lr": 0.05, "device": "cpu"}


def linear(num_classes: int) -> nn.Module:
    return nn.Linear(5, num_classes)


def taught(data: Any, **options: Any) -> Any:
    return preceptor.teach(data=data, model=linear, **QUICK, **options)


class Pairs(Dataset[Any]):
    """Samples of two sequences; attributes by name."""

    def __init__(self, inputs: Any = X, labels: Any = Y, **attributes: Any) -> None:
        self.inputs, self.given = inputs, labels
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.given[index]


class Mappings(Pairs):
    """Samples as WebDataset has them, with a key that is no number, and others by a function of the index."""

    def __init__(self, more: Any = lambda index: {}, **options: Any) -> None:
        super().__init__(**options)
        self.more = more

    def __getitem__(self, index: int) -> Any:
        value, label = super().__getitem__(index)
        return {"input": value, "label": label, "__key__": f"{index:06}", **self.more(index)}


class Stream(IterableDataset[Any]):
    def __init__(self, dataset: Any, length: int) -> None:
        self.dataset, self.length = dataset, length

    def __iter__(self) -> Any:
        return (self.dataset[index] for index in range(len(self.dataset)))

    def __len__(self) -> int:
        return self.length


class Delegating(Pairs):
    """Whatever it lacks it has from the set below."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        value, label = self.base[index]
        return value, int(label) % 2

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


class Fetching(Pairs):
    def __init__(self, fetch: Any) -> None:
        super().__init__()
        self.fetch = fetch


@pytest.mark.parametrize(
    "data",
    [
        list(zip(X, Y, strict=True)),
        Pairs(X.numpy(), Y.numpy().astype("uint64")),
        Pairs(labels=[np.uint8(label) if label else label for label in Y.tolist()]),
        Pairs(labels=[np.array([[label]]) for label in Y.tolist()]),
        StackDataset(X, Y),  # type: ignore[arg-type]
        StackDataset(input=X, label=Y),  # type: ignore[arg-type]
        Stream(Mappings(), 60),
        Mappings(lambda index: {"url": None, "json": {"a": 1}, "mask": True}),
        Subset(Pairs(), np.arange(-60, 0)),  # type: ignore[arg-type]
        Fetching(lambda index: (X[index].numpy(), Y[index].numpy())),
        Fetching(lambda index: (X[index].flip(0), Y[index].flip(0))),
        Fetching(lambda index: (X[index][:2], Y[index][:2])),
    ],
)
def test_samples_are_those_of_the_data_set(data: Any) -> None:
    found = as_data(data)
    assert found.num_classes == 3
    batch = Indexed(found.train)[[7, 0, 59]]
    torch.testing.assert_close(batch["input"], X[[7, 0, 59]])
    assert batch["label"].tolist() == [1, 0, 2]
    assert all(isinstance(value, Tensor) for value in batch.values())


def test_a_step_of_samples_with_other_things_in_them() -> None:
    assert taught(Mappings(lambda index: {"time": 0.5, "text": "a"}))["heldout"]


def test_labels_of_a_wrapper_that_hands_on_attributes_are_its_samples() -> None:
    data = as_data(Delegating(Pairs(targets=Y)))
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DataLoader(Pairs(), batch_size=4), "a DataLoader is no data set; give the one that it loads, loader.dataset"),
        ((Pairs(), DataLoader(Pairs()), None), "a DataLoader is no data set"),
        ([Pairs(), Pairs()], "the data are a list of 2 data sets; give a tuple of two, (train, test)"),
        ((Pairs(),) * 4, "the data are a tuple of 4 data sets"),
        ([DataLoader(Pairs())], "the data are a list of 1 data sets"),
        ((X, Y), "a Tensor is no data set; give a map-style torch data set, such as TensorDataset(inputs, labels)"),
        ((X.numpy(), Y.numpy()), "a ndarray is no data set"),
        (Pairs, "a type is no data set"),
        (iter(()), "a tuple_iterator is no data set"),
        (
            {"train": Pairs(), "test": Pairs()},
            "the data are a mapping of train, test; give a data set of (input, label)",
        ),
        ({"input": X, "label": Y}, "the data are a mapping of input, label"),
        (TensorDataset(X, Y, Y), "sample 0 of the data set is a tuple of 3; it must be (input, label)"),
        (Stream(Pairs(X.view(6, 10, 5), Y.view(6, 10)), 6), "the label of sample 0 is an array of shape (10,)"),
        (Subset(Pairs(), Y < 2), "the indices of a Subset are True and False; give numbers"),  # type: ignore[arg-type]
        (Subset(Pairs(), (Y < 2).numpy()), "the indices of a Subset are True and False"),  # type: ignore[arg-type]
        (
            ConcatDataset([Pairs(), Subset(Pairs(), [0, 60])]),
            "a Subset holds sample 60 of a data set that has samples 0",
        ),
        (Subset(Pairs(), []), "the data set is empty; at least one sample is needed"),
        (Pairs(X[:0]), "the data set is empty"),
        (Pairs(X.tolist()), "is a list, not a tensor; give the data set a transform that makes tensors"),
        (Pairs(["file.png"] * 60), "is a str, not a tensor"),
        (Pairs(labels=["a", "b", "c"] * 20), "the labels are not numbers: that of sample 0 is 'a'; number the classes"),
        (Pairs(labels=np.array([b"a", b"b"] * 30)), "the labels are not numbers: that of sample 0 is b'a'"),
        (Pairs(labels=[0, 2**70] * 30), "the label of sample 1 is 1180591620717411303424, which is too large"),
        (Pairs(labels=Y[:50]), "sample 50 of the data set, a Pairs, cannot be read (IndexError: "),
        ([*zip(X, Y, strict=True), None], "sample 60 of the data set is a NoneType"),
        (Pairs(X, [*Y[:-1], torch.tensor([0.2, 0.3, 0.5])]), "the label of sample 59 is an array of shape (3,)"),
        (Mappings(lambda index: {"mask": None}), "is None; give one bool for each label"),
        (Mappings(lambda index: {"mask": [True, False]}), "has shape (2,) and its label (); give one bool for each"),
        ((Pairs(), Pairs(X[:, :4])), "asked for a test sample, cannot take inputs of shape (1, 4) and torch.float32"),
        (
            (Pairs(), Pairs(X.double()), None),
            "asked for a held-out sample, cannot take inputs of shape (1, 5) and torch.",
        ),
        ((Pairs(), Pairs(labels=[-1] * 60)), "the label of sample 0 is -1; with 3 classes labels are integers from 0"),
    ],
)
def test_what_is_refused_before_training(data: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        taught(data)


def test_a_fetch_that_fails_names_its_samples() -> None:
    def fetch(index: Tensor) -> Any:
        if len(index) > 3:
            raise OSError("the disk is gone")
        return X[index], Y[index]

    with pytest.raises(InputError, match=r"samples 0, 1, 2, 3 of the data set, a Fetching, cannot be read \(OSError"):
        Indexed(Fetching(fetch))[[0, 1, 2, 3]]


@pytest.mark.parametrize("drawn", [True, False])
def test_labels_that_another_reading_does_not_give(drawn: bool) -> None:
    class Noisy(Pairs):
        calls = 0

        def __getitem__(self, index: int) -> Any:
            self.calls += 1
            return self.inputs[index], int(torch.randint(3, ())) if drawn else self.calls % 3

    with pytest.raises(InputError, match=r"the label of sample \d+ is \d in one reading and \d in another"):
        taught(Noisy())


def test_names_by_number() -> None:
    numbered = {"dog": 1, "cat": 0, "fox": 2}
    assert names_of(Pairs(class_to_idx=numbered)) == ("cat", "dog", "fox")
    assert names_of(Pairs(class_to_idx=numbered, classes=["a", "b", "c"])) == ("a", "b", "c")
    assert names_of(Pairs(class_to_idx={"cat": 0, "tomcat": 0, "dog": 1})) is None
    with pytest.raises(InputError, match="label 0 is 'dog' in `classes` and 'cat' in `class_to_idx`"):
        names_of(Pairs(class_to_idx=numbered, classes=["dog", "cat", "fox"]))


def test_no_more_classes_than_can_be() -> None:
    with pytest.raises(InputError, match="there are 1000000000000 classes without names"):
        as_data(Pairs(), num_classes=10**12)
    with pytest.raises(InputError, match="the label of sample 0 is 1099511627776, which would make as many classes"):
        as_data(Pairs(labels=[2**40] * 60))


# -- what fails when it is asked ---------------------------------------------------------------------------------------


def failing(name: str) -> Any:
    def fail(_: Any) -> Any:
        raise RuntimeError("no disk")

    return type("Failing", (Pairs,), {name: fail if name == "__len__" else property(fail)})()


@pytest.mark.parametrize("name", ["__len__", "classes", "class_names", "class_to_idx", "targets", "features"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_attribute_that_fails_is_named(name: str, place: int) -> None:
    parts = [Pairs(), Pairs(), Pairs()]
    parts[place] = failing(name)
    with pytest.raises(InputError, match=f"`{name}` of the data set, a Failing, fails .RuntimeError: no disk."):
        taught(tuple(parts))


@pytest.mark.parametrize("wrap", [lambda data: Subset(data, [0, 1]), lambda data: ConcatDataset([Pairs(), data])])
def test_one_that_fails_within_another_is_named(wrap: Any) -> None:
    with pytest.raises(InputError, match="`classes` of the data set, a Failing, fails"):
        taught((wrap(failing("classes")), Pairs()))


@pytest.mark.parametrize("part", ["inputs", "labels"])
def test_a_masked_array_is_refused(part: str) -> None:
    arrays = {"inputs": X.numpy(), "labels": Y.numpy()}
    arrays[part] = np.ma.array(arrays[part], mask=arrays[part] > 1)
    with pytest.raises(InputError, match="masked"):
        taught(Pairs(**arrays) if part == "inputs" else ArrayDataset(arrays["inputs"], arrays["labels"]))


def test_a_dict_of_datasets_is_its_parts() -> None:
    import datasets

    def part(size: int) -> Any:
        rows = [{"input": [float(i % 3)] * 5, "label": i % 3} for i in range(size)]
        found = datasets.Dataset.from_list(rows).cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
        return found.with_format("torch")

    found = as_data(datasets.DatasetDict(train=part(30), validation=part(9), test=part(6)))
    assert (len(found.train), len(found.test), found.class_names) == (39, 6, ("a", "b", "c"))  # type: ignore[arg-type]
    assert found.pools is not None
    assert found.pools["heldout"].tolist() == list(range(30, 39))
    result = taught(datasets.DatasetDict(train=part(30), test=part(6)))
    assert result["test"]["last"]["accuracy"] >= 0
    with pytest.raises(InputError, match=r"a DatasetDict of train, test_matched; give .*\(data\['train'\], data"):
        taught(datasets.DatasetDict(train=part(30), test_matched=part(6)))
