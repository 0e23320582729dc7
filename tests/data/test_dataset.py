"""Arrays in memory, batches with a stable index, labels that are checked."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from preceptor.data.dataset import (
    ArrayDataset,
    Data,
    Gathered,
    Indexed,
    as_data,
    check_labels,
    labels_of,
    require_index,
)
from preceptor.errors import InputError


class Noisy(Dataset):
    """A user's data set whose transform draws from each of the global generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        draws = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return torch.tensor([index, *draws], dtype=torch.float64), index % 2


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


class SizedStream(Stream):
    def __init__(self, samples, claimed=None):
        super().__init__(samples)
        self.claimed = len(samples) if claimed is None else claimed

    def __len__(self):
        return self.claimed


def arrays(n=6, **options):
    return ArrayDataset(torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 3, **options)


def test_array_dataset_serves_samples_and_batches_alike():
    dataset = arrays()
    inputs, labels = dataset.fetch(torch.tensor([4, 1]))
    assert torch.equal(inputs, torch.stack([dataset[4][0], dataset[1][0]]))
    assert labels.tolist() == [1, 1]
    assert labels.dtype == torch.int64
    assert len(list(dataset)) == 6  # iteration stops at the end


def test_array_dataset_transforms_whole_batches():
    seen = []
    dataset = arrays(transform=lambda inputs: seen.append(tuple(inputs.shape)) or inputs + 1)
    assert dataset.fetch([0, 2])[0].tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert dataset[3][0].tolist() == [7.0, 8.0]
    assert seen == [(2, 2), (1, 2)]


@pytest.mark.parametrize("labels", [np.array([0, 1], np.uint8), [0, 1], torch.tensor([0, 1], dtype=torch.int32)])
def test_array_dataset_takes_any_integers(labels):
    assert arrays(2).labels.equal(ArrayDataset(torch.zeros(2, 1), labels).labels)


@pytest.mark.parametrize(
    ("inputs", "labels", "sentence"),
    [
        (torch.zeros(3, 1), [0, 1], "3 inputs but 2 labels"),
        (torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.zeros(2, 1), [[0, 1], [1, 0]], "argmax"),
    ],
)
def test_array_dataset_refuses(inputs, labels, sentence):
    with pytest.raises(InputError, match=sentence):
        ArrayDataset(inputs, labels)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1, -1], "label of sample 2 is -1; with 3 classes labels are integers from 0 to 2"),
        ([0, 3, 7], "label of sample 1 is 3;"),
        ([0.0, 1.5], "label of sample 1 is 1.5;"),
        ([float("nan"), 1.0], "label of sample 0 is nan;"),
        ([0.0, 1.0], r"sample 0 is 0.0; its dtype torch.float32 is not an integer one.*\.long\(\)"),
        ([1 + 1j], "its dtype torch.complex64"),
        (["cat", "dog"], "not numbers"),
        (np.array(["cat", "dog"]), "not numbers"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        check_labels(labels, 3)


def test_labels_without_a_class_count_must_only_not_be_negative():
    assert check_labels([900]).tolist() == [900]
    with pytest.raises(InputError, match=r"sample 0 is -2; labels are integers from 0$"):
        check_labels([-2])


def test_masked_labels_may_be_anything():
    labels = torch.tensor([[0, -100], [1, 2]])
    assert torch.equal(check_labels(labels, 3, mask=labels >= 0), labels)
    with pytest.raises(InputError, match="sample 9 is -100"):
        check_labels(labels, 3, index=torch.tensor([9, 4]), mask=torch.tensor([True, True]))
    assert check_labels(labels, 3, mask=torch.tensor([False, True])).shape == (2, 2)


@pytest.mark.parametrize("dataset", [arrays(), TensorDataset(arrays().inputs, arrays().labels)])
def test_indexed_serves_batches_with_their_index(dataset):
    batch = Indexed(dataset, num_classes=3)[[4, 0]]
    assert batch["input"].tolist() == [[8.0, 9.0], [0.0, 1.0]]
    assert batch["label"].tolist() == [1, 0]
    assert batch["index"].tolist() == [4, 0]
    assert batch["mask"].tolist() == [True, True]
    assert [batch[name].dtype for name in ("label", "index", "mask")] == [torch.int64, torch.int64, torch.bool]
    assert len(Indexed(dataset)) == 6


def test_indexed_takes_mappings_and_keeps_their_keys_but_not_their_index():
    samples = [{"input": torch.ones(2), "label": i, "index": 70 + i, "mask": i > 0, "length": 2} for i in range(3)]
    batch = Indexed(samples)[[2, 0]]
    assert batch["index"].tolist() == [2, 0]
    assert batch["mask"].tolist() == [True, False]
    assert batch["length"].tolist() == [2, 2]


def test_indexed_checks_the_labels_of_each_batch():
    indexed = Indexed([(torch.zeros(1), label) for label in (0, 1, 5)], num_classes=3)
    assert len(indexed[[0, 1]]["label"]) == 2
    with pytest.raises(InputError, match="label of sample 2 is 5"):
        indexed[[1, 2]]


def test_indexed_refuses_what_it_cannot_serve():
    with pytest.raises(InputError, match=r"samples 0, 1 cannot be stacked"):
        Indexed([(torch.zeros(1), 0), (torch.zeros(2), 0)])[[0, 1]]
    with pytest.raises(InputError, match=r"Stream can only be iterated.*map-style"):
        Indexed(Stream([]))
    with pytest.raises(InputError, match="sample 0 of the data set is a Tensor"):
        Indexed([torch.zeros(2)])[[0]]
    with pytest.raises(InputError, match=r"mapping of \['image'\]"):
        Indexed([{"image": 1}])[[0]]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and torch's threads
def test_samples_do_not_depend_on_batch_size_order_or_workers():
    indexed = Indexed(Noisy(), seed=3)
    reference = torch.cat([indexed[[index]]["input"] for index in range(8)])
    assert torch.equal(indexed[[5, 2]]["input"], reference[[5, 2]])
    plan = [[7, 0, 3], [1, 2], [4, 5, 6]]
    loader = DataLoader(indexed, batch_size=None, sampler=plan, num_workers=2, multiprocessing_context="fork")
    for batch in loader:
        assert torch.equal(batch["input"], reference[batch["index"]])


def test_samples_depend_on_seed_epoch_and_index():
    indexed = Indexed(Noisy())
    first = indexed[[0, 1]]["input"]
    assert not torch.equal(first[0, 1:], first[1, 1:])
    indexed.epoch = 1
    assert not torch.equal(first[:, 1:], indexed[[0, 1]]["input"][:, 1:])
    assert not torch.equal(first[:, 1:], Indexed(Noisy(), seed=1)[[0, 1]]["input"][:, 1:])


def test_global_generators_are_left_as_they_were():
    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    Indexed(Noisy())[[0, 1]]
    labels_of(Noisy())
    assert draw() == expected


class Attributes:
    """A data set that says its labels in an attribute; it counts how often it is read."""

    def __init__(self, name, values, target_transform=None):
        setattr(self, name, values)
        self.values, self.target_transform, self.read = values, target_transform, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        self.read += 1
        label = self.values[index]
        return torch.zeros(1), label if self.target_transform is None else self.target_transform(index)


def test_labels_of_reads_attributes():
    assert labels_of(Attributes("targets", [2, 0, 1])).tolist() == [2, 0, 1]
    assert labels_of(Indexed(Attributes("labels", np.array([1, 0])))).tolist() == [1, 0]
    assert labels_of(Subset(arrays(), [5, 0])).tolist() == [2, 0]
    with pytest.raises(InputError, match="sample 1 is 4"):
        labels_of(Attributes("targets", [2, 4]), 3)


def test_labels_of_reads_samples_where_it_must():
    assert labels_of(Attributes("targets", [9, 9], target_transform=lambda index: index)).tolist() == [0, 1]
    assert labels_of([{"input": 0, "label": torch.tensor(1)}]).tolist() == [1]
    with pytest.raises(InputError, match=r"sample 0 is 0\.5"):
        labels_of([(0, 0.5)])


def numbered(*order: int) -> list[dict[str, int]]:
    return [{"input": 10 * index, "label": index % 2, "index": index} for index in order]


def test_require_index():
    require_index(arrays())
    require_index(Gathered(SizedStream(numbered(0, 1))))
    for samples in ([(0, 0)], [{"input": 0, "label": 0}]):
        with pytest.raises(InputError, match=r"soteacher needs to know each sample again.*'index'"):
            require_index(Gathered(SizedStream(samples)), "soteacher")


def test_gathered_is_in_the_order_of_its_index():
    assert [sample["input"] for sample in Gathered(SizedStream(numbered(2, 0, 1)))] == [0, 10, 20]
    assert Gathered(SizedStream([(5, 1), (4, 0)])).samples == [(5, 1), (4, 0)]
    assert len(as_data(SizedStream(numbered(1, 0))).train) == 2  # type: ignore[arg-type]


def test_gathered_refuses():
    with pytest.raises(InputError, match="does not say how long"):
        Gathered(Stream([(0, 0)]))
    with pytest.raises(InputError, match="index 1 to two samples"):
        Gathered(SizedStream(numbered(1, 0, 1)))
    for claimed, found in ((1, "more"), (3, "2")):
        with pytest.raises(InputError, match=f"holds {claimed} samples and gives {found}"):
            Gathered(SizedStream([(0, 0), (0, 1)], claimed))


def test_as_data():
    data = Data(arrays(), None, ("a", "b", "c"))
    assert as_data(data) is data
    assert (data.num_classes, data.input_shape, data.preprocessing) == (3, (2,), {})
    train, test = arrays(), arrays(2)
    pair = as_data((train, test))
    assert (pair.train, pair.test, pair.class_names) == (train, test, ("0", "1", "2"))
    alone = as_data(train)
    assert (alone.train, alone.test) == (train, None)
    train.classes = ["x", "y", "z"]
    assert as_data(train).class_names == ("x", "y", "z")


@pytest.mark.parametrize("found", [None, 3, "cifar10", {"train": arrays()}, torch.zeros(3), (arrays(), 3)])
def test_as_data_refuses(found):
    with pytest.raises(InputError, match="is no data set"):
        as_data(found)


def test_as_data_refuses_iterable_sets():
    with pytest.raises(InputError, match="can only be iterated"):
        as_data(Stream([]))


def test_input_shape_needs_tensors():
    with pytest.raises(InputError, match="is a str, not a tensor"):
        _ = Data([("picture", 0)], None, ("a",)).input_shape  # type: ignore[arg-type]
