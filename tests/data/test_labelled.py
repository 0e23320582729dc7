"""Labels are those of the samples, whatever an attribute says of them."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from data.toys import Wrapped
from preceptor.data.dataset import ArrayDataset, Indexed, as_data, labels_of
from preceptor.data.indexed import is_vectorised
from preceptor.errors import InputError


class Base(Dataset):
    """Labels 0 to 9 in turn, said in an attribute too; it counts how often it is read."""

    def __init__(self, n=1000, classes=10):
        self.targets = [index % classes for index in range(n)]
        self.read = 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.read += 1
        return torch.zeros(2), self.targets[index]


class Renumbered(Subset):
    """Its classes count from 0 again."""

    def __getitem__(self, index):
        value, label = self.dataset[self.indices[index]]
        return value, {3: 0, 5: 1}[label]

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Transformed(Subset):
    """Changes the inputs alone."""

    def __getitem__(self, index):
        value, label = self.dataset[self.indices[index]]
        return value + 1, label

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Wrapper(Dataset):
    """Keeps the attribute of the set below, and gives other labels: a function of label and index."""

    def __init__(self, base, change):
        self.base, self.targets, self.change = base, base.targets, change

    def __len__(self):
        return len(self.base)

    def __getitem__(self, index):
        value, label = self.base[index]
        return value, self.change(label, index)


class Shifted(ConcatDataset):
    """Each of its parts has classes of its own."""

    def __getitem__(self, index):
        value, label = super().__getitem__(index)
        return value, label + 10 * (index >= self.cumulative_sizes[0])


def of_samples(dataset):
    return [int(dataset[index][1]) for index in range(len(dataset))]


KEPT = [index for index in range(1000) if index % 10 in (3, 5)]


@pytest.mark.parametrize(
    "dataset",
    [
        Base(),
        Subset(Base(), KEPT),
        Subset(Subset(Base(), KEPT), [7, 2, 5]),
        Subset(Base(), np.array(KEPT)),  # type: ignore[arg-type]
        Subset(Base(), torch.tensor(KEPT)),  # type: ignore[arg-type]
        Renumbered(Base(), KEPT),
        Subset(Renumbered(Base(), KEPT), [0, 1, 2]),
        ConcatDataset([Renumbered(Base(), KEPT), Base(20)]),
        Transformed(Base(), KEPT),
        Wrapper(Base(), lambda label, index: label % 2),
        Wrapper(Base(), lambda label, index: (label + 1) % 10),
        Wrapper(Base(), lambda label, index: 0 if label == 9 else label),
        Wrapper(Base(), lambda label, index: (label + (index % 4 == 0)) % 10),
        Subset(Wrapper(Base(), lambda label, index: label % 2), KEPT),
        Shifted([Base(30), Base(30)]),
        TensorDataset(torch.zeros(4, 2), torch.tensor([1, 0, 2, 1])),
    ],
)
def test_labels_are_those_of_the_samples(dataset):
    assert labels_of(dataset).tolist() == of_samples(dataset)
    assert labels_of(Indexed(dataset)).tolist() == of_samples(dataset)


def test_stored_labels_that_are_right_save_reading():
    base = Base(5000)
    for dataset in (base, Subset(base, range(4000)), Transformed(base, range(4000)), ConcatDataset([base, base])):
        base.read = 0
        labels_of(dataset)
        assert 64 <= base.read < 200


def test_a_subset_is_judged_by_its_own_samples():
    base = Base(400)
    base.targets[399] = -1
    assert as_data(Subset(base, [n for n in range(399) if n % 10 < 6])).class_names == tuple("012345")
    base.read = 0
    del base.targets[0]  # of another length: nobody's labels
    assert labels_of(Subset(Wrapped(base), [3, 4])).tolist() == [4, 5]
    assert base.read == 2
    with pytest.raises(InputError, match="the label of sample 1 is -1"):
        labels_of(Subset(base, [0, 398]))


def labelled(*labels, **attributes):
    class Samples(list):
        pass

    dataset = Samples((torch.full((2,), float(n)), label) for n, label in enumerate(labels))
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


ROW = torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    "labels",
    [
        [torch.tensor([1]), torch.tensor([0])],
        [np.array([1], np.uint8), np.array([0], np.uint8)],
        [np.array(1), np.array(0)],
        [[1], [0]],
        [torch.tensor([[1]]), torch.tensor([[0]])],
        [True, False],
        [np.uint8(1), np.int32(0)],
    ],
)
def test_labels_of_one_number_are_that_number(labels):
    dataset = labelled(*labels)
    assert labels_of(dataset).tolist() == [1, 0]
    assert Indexed(dataset, num_classes=2)[[1, 0]]["label"].tolist() == [0, 1]
    for stored in (np.array([[1], [0]]), torch.tensor([1, 0]), ["b", "a"], np.array([1.0, 0.0]), [9, 9], [1]):
        assert labels_of(labelled(*labels, labels=stored)).tolist() == [1, 0]


def test_arrays_take_a_column_of_labels():
    assert ArrayDataset(torch.zeros(3, 1), [[0], [2], [1]]).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([ROW, ROW], "the label of sample 0 is a one-hot row of 3; give the class number"),
        ([0, ROW.float()], "the label of sample 1 is a one-hot row of 3"),
        ([0, [0, 1]], "the label of sample 1 is a one-hot row of 2"),
        ([0, ROW.numpy() * 0.8 + 0.2 / 3], r"sample 1 is an array of shape \(3,\).*soft labels as a teacher"),
        ([torch.tensor([2, 0, 1, -100])] * 2, r"sample 0 is an array of shape \(4,\); give one class number a sample$"),
        ([0, "dog"], "that of sample 1 is 'dog'"),
        ([0, None], "that of sample 1 is None"),
        ([0, ["a", "b"]], "the label of sample 1 is"),
        ([0, -100], "the label of sample 1 is -100; labels are integers from 0"),
        ([0.0, 1.0], r"the label of sample 0 is 0.0; .*convert with .long\(\)"),
    ],
)
def test_labels_that_are_no_class_number_are_refused_with_their_sample(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        as_data(labelled(*labels))


def test_255_means_ignored():
    for dataset in (labelled(0, 255, 1), labelled(0, 255, 1, targets=[0, 255, 1])):
        with pytest.raises(InputError, match="the label of sample 1 is 255 and none is 254; leave out"):
            as_data(dataset)
        assert as_data(dataset, num_classes=256).num_classes == 256
    assert as_data(labelled(*range(256))).num_classes == 256


class Fetching(Dataset):
    """Has a method `fetch`, which may be anything."""

    def __init__(self, fetch):
        self.fetch = fetch

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index % 2


def refuse(url):
    raise ConnectionError(url)


@pytest.mark.parametrize(
    ("fetch", "vectorised"),
    [
        (lambda index: (index[:, None].float(), index % 2), True),
        (refuse, False),
        (lambda: 0, False),
        (lambda index: b"bytes", False),
        (lambda index: (index[:, None].float(), 1 - index % 2), False),
        (lambda index: (torch.zeros(4, 1), torch.zeros(4)), False),
        ("a name", False),
    ],
)
def test_only_a_fetch_of_batches_is_one(fetch, vectorised):
    dataset = Fetching(fetch)
    assert is_vectorised(dataset) is vectorised
    batch = Indexed(dataset)[[3, 0]]
    assert batch["input"].tolist() == [[3.0], [0.0]]
    assert batch["label"].tolist() == [1, 0]
