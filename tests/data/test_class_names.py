"""Class names from anywhere, in one order in every part."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, random_split

from data.toys import Wrapped
from preceptor.data.class_names import as_names, names_of
from preceptor.data.dataset import Data, as_data, with_heldout
from preceptor.errors import InputError


class Named(Dataset):
    """Samples whose labels are 0, 1, ... in turn, with names."""

    def __init__(self, classes=("cat", "dog", "fox"), n=12, attribute="classes", labels=3):
        setattr(self, attribute, classes)
        self.n, self.num_labels = n, labels

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.zeros(2), index % self.num_labels


class Stream(IterableDataset):
    classes = ("cat", "dog")

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([(torch.zeros(2), 0), (torch.zeros(2), 1)])


class Other(Subset):
    """Renumbers, so that the names of the set below are not its own."""

    def __getitem__(self, index):
        value, label = self.dataset[self.indices[index]]
        return value, (label + 1) % 3

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class ClassLabel:
    names = ("cat", "dog", "fox")


NAMES = ("cat", "dog", "fox")


@pytest.mark.parametrize(
    "given",
    [
        ["cat", "dog", "fox"],
        np.array(["cat", "dog", "fox"]),
        np.array([b"cat", b"dog", b"fox"]),
        [b"cat", "dog", np.str_("fox")],
        {0: "cat", 1: "dog", 2: "fox"},
        {"fox": 2, "cat": 0, "dog": 1},
        (name for name in NAMES),
    ],
)
def test_names_are_read_from_any_form(given):
    assert as_names(given) == NAMES


@pytest.mark.parametrize("given", [3, np.int64(3), torch.arange(3), np.arange(3), range(3), {0: 0, 1: 1, 2: 2}])
def test_names_may_be_numbers(given):
    assert as_names(given) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["a", "b", "a"], "the classes 0 and 2 are both called 'a'"),
        ([b"a", "a"], "the classes 0 and 1 are both called 'a'"),
        ([1, "1"], "both called '1'"),
        ("cat", "the class names are a str"),
        ({"a", "b"}, "the class names are a set"),
        (None, "the class names are a NoneType"),
        (True, "the class names are a bool"),
        ({1: "a", 2: "b"}, "does not number the classes 0 to 1"),
        ({"a": "x", "b": "y"}, "does not number the classes"),
    ],
)
def test_names_that_are_none(given, sentence):
    with pytest.raises(InputError, match=sentence):
        as_names(given)
    with pytest.raises(InputError, match=sentence):
        Data([], None, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dataset",
    [
        Named(),
        Named(attribute="class_names"),
        Named(np.array([b"cat", b"dog", b"fox"])),
        Named({"label": ClassLabel}, attribute="features"),
        Subset(Named(), [0, 1, 5]),
        random_split(Named(), [6, 6])[0],
        ConcatDataset([Named(), Named()]),
        ConcatDataset([Subset(Named(), [0, 1]), Named([])]),
        Subset(ConcatDataset([Named(), Named()]), [0, 1, 2]),
    ],
)
def test_names_survive_what_data_sets_are_put_into(dataset):
    assert names_of(dataset) == NAMES
    assert as_data(dataset).class_names == NAMES


def test_names_of_others_are_not_taken():
    assert names_of(Other(Named(), range(12))) is None
    assert names_of(Named([])) is None
    assert names_of(Named({"label": 3}, attribute="features")) is None
    assert as_data(Stream()).class_names == ("cat", "dog")
    with pytest.raises(InputError, match="`classes` of the data set is a function"):
        names_of(Named(lambda: 3))


FEWER, SHUFFLED, MORE = ("cat", "fox"), ("dog", "fox", "cat"), (*NAMES, "owl")


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (FEWER, r"label 1 is 'dog' in .* and 'fox' in .* \(3 and 2 classes\)"),
        (SHUFFLED, "label 0 is 'cat' in .* and 'dog' in"),
        (MORE, "label 3 is no class in .* and 'owl' in"),
    ],
)
def test_parts_with_other_names_are_refused(others, sentence):
    train, other = Named(), Named(others, labels=2)
    alike = as_data(train)
    for call in (
        lambda: as_data((train, other)),
        lambda: as_data((train, other, None)),
        lambda: as_data((train, Subset(other, [0, 1]), Named())),
        lambda: as_data((train, Named(), other)),
        lambda: as_data(ConcatDataset([train, other])),
        lambda: as_data(Subset(ConcatDataset([train, other]), [0])),
        lambda: as_data(Data(train, other, NAMES)),
        lambda: as_data(Data(Wrapped(train), other, NAMES)),
        lambda: with_heldout(alike, other),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


def test_names_that_were_given_may_be_others_but_in_no_other_order():
    assert as_data(Data(Named(), Named(), ("a", "b", "c"))).class_names == ("a", "b", "c")
    with pytest.raises(InputError, match="label 0 is 'dog' in the class names that were given and 'cat' in"):
        as_data(Data(Named(), None, SHUFFLED))


def test_sets_without_names_go_with_any():
    assert as_data((Named(), Wrapped(Named()), Wrapped(Named()))).class_names == NAMES
    assert as_data((Wrapped(Named()), Named(SHUFFLED))).class_names == ("0", "1", "2")


def test_num_classes_where_training_labels_lack_some():
    train = Wrapped(Named(labels=2))
    assert as_data(train).num_classes == 2
    assert as_data((train, Wrapped(Named())), num_classes=3).class_names == ("0", "1", "2")
    assert as_data(Data(train, None, ("0", "1")), 5).num_classes == 5  # type: ignore[arg-type]
    assert as_data(Named(), 3).class_names == NAMES
    for data, number in ((Named(), 4), (Data(train, None, ("0", "1", "2")), 2)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=rf"num_classes is {number} and the data have 3 classes"):
            as_data(data, number)
