"""Arrays from .npz files that the tests write."""

import numpy as np
import pytest
import torch

from preceptor.data import npz
from preceptor.data.dataset import ArrayDataset
from preceptor.errors import InputError

INPUTS = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
LABELS = np.array([0, 2, 1, 2])


def save(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def test_one_part(tmp_path):
    data = npz(path=str(save(tmp_path, inputs=INPUTS, labels=LABELS)))
    value, label = data.train[1]
    assert value.dtype == torch.float32
    assert value.tolist() == INPUTS[1].tolist()
    assert label == 2
    assert (data.test, data.class_names, data.input_shape) == (None, ("0", "1", "2"), (2, 3))


def test_all_parts(tmp_path):
    names = np.array(["cat", "dog", "eel", "fox"])
    path = save(
        tmp_path,
        train_inputs=INPUTS,
        train_labels=LABELS.astype(np.uint8),
        test_inputs=INPUTS[:1],
        test_labels=np.array([3]),
        class_names=names,
        other=np.zeros(3),
    )
    data = npz(path=path, mean=[1.0, 2.0], std=0.5, divide_by=2.0)
    assert data.test[0][0].tolist() == [[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0]]
    assert data.class_names == ("cat", "dog", "eel", "fox")
    assert data.preprocessing == {"divide_by": 2.0, "mean": [1.0, 2.0], "std": [0.5]}


def test_a_validation_set_is_the_pool_of_the_heldout_part(tmp_path):
    path = save(tmp_path, inputs=INPUTS, labels=LABELS, heldout_inputs=INPUTS[:2] + 1, heldout_labels=np.array([3, 0]))
    data = npz(path=path, mean=[1.0, 2.0])
    assert isinstance(data.train, ArrayDataset)  # fetched a batch at a time
    assert data.train.labels.tolist() == [*LABELS.tolist(), 3, 0]
    assert data.train[4][0].tolist() == (INPUTS[0] + 1 - [[1.0], [2.0]]).tolist()
    assert {name: pool.tolist() for name, pool in data.pools.items()} == {"heldout": [4, 5]}
    assert (data.test, data.class_names) == (None, ("0", "1", "2", "3"))


def test_bytes_are_scaled_and_kept_as_bytes(tmp_path):
    pixels = np.full((4, 1, 2, 2), 51, np.uint8)
    data = npz(path=save(tmp_path, inputs=pixels, labels=LABELS), mean=0.1, std=0.1)
    assert data.train.inputs.dtype == torch.uint8
    torch.testing.assert_close(data.train[0][0], torch.ones(1, 2, 2))


def test_tokens_stay_integers(tmp_path):
    tokens = np.array([[5, 900], [7, 0], [1, 2], [3, 4]], np.uint16)
    data = npz(path=save(tmp_path, inputs=tokens, labels=LABELS))
    assert data.train.inputs.dtype == torch.int64
    assert data.train[0][0].tolist() == [5, 900]
    assert data.preprocessing == {}


def test_other_byte_orders_and_layouts(tmp_path):
    inputs = np.asfortranarray(INPUTS.astype(">f4"))
    data = npz(path=save(tmp_path, inputs=inputs, labels=LABELS.astype(">i2")))
    assert data.train[2][0].tolist() == INPUTS[2].tolist()
    assert data.train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"inputs": INPUTS}, "there is no array 'labels', only inputs"),
        ({"x": INPUTS, "y": LABELS}, "there is no array 'inputs', only x, y"),
        ({}, "only none at all"),
        ({"train_labels": LABELS}, "no array 'train_inputs'"),
        ({"inputs": INPUTS, "labels": LABELS, "test_inputs": INPUTS}, "no array 'test_labels'"),
        ({"inputs": INPUTS, "labels": LABELS[:3]}, r"'inputs' has shape \(4, 2, 3\) and 'labels' \(3,\)"),
        ({"inputs": INPUTS[:0], "labels": LABELS[:0]}, "N at least 1"),
        ({"inputs": INPUTS, "labels": np.eye(4, dtype=int)}, r"'labels' \(4, 4\)"),
        ({"inputs": INPUTS, "labels": LABELS - 1}, "label of sample 0 is -1"),
        ({"inputs": INPUTS, "labels": LABELS + 0.5}, r"label of sample 0 is 0\.5"),
        ({"inputs": INPUTS, "labels": LABELS, "class_names": np.array(["a", "b"])}, "label of sample 1 is 2; with 2"),
        ({"inputs": INPUTS * np.nan, "labels": LABELS}, "sample 0 of 'inputs' holds nan"),
        ({"inputs": INPUTS + 1e300, "labels": LABELS}, "sample 0 of 'inputs' holds inf"),
        ({"inputs": INPUTS + 1j, "labels": LABELS}, "'inputs' has dtype complex128"),
        ({"inputs": INPUTS, "labels": np.array([{}] * 4)}, "'labels' holds Python objects"),
        ({"inputs": INPUTS, "labels": LABELS, "heldout_labels": LABELS}, "no array 'heldout_inputs'"),
        (
            {"inputs": INPUTS, "labels": LABELS, "heldout_inputs": INPUTS[:, 0], "heldout_labels": LABELS},
            r"shape \(2, 3\) but a heldout input \(3,\)",
        ),
        (
            {"inputs": INPUTS, "labels": LABELS, "test_inputs": INPUTS[:, 0], "test_labels": LABELS},
            r"shape \(2, 3\) but a test input \(3,\)",
        ),
    ],
)
def test_refused_arrays(tmp_path, arrays, sentence):
    path = save(tmp_path, **arrays)
    with pytest.raises(InputError, match=f"a.npz: .*{sentence}"):
        npz(path=path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mean": [0.0, 0.0, 0.0]}, "mean has 3 values but the inputs have 2 channels"),
        ({"std": [1.0, 0.0]}, "must be positive"),
        ({"std": []}, "std has 0 values"),
        ({"divide_by": 0.0}, "must be positive"),
        ({"std": float("nan")}, "must be positive"),
    ],
)
def test_refused_options(tmp_path, options, sentence):
    path = save(tmp_path, inputs=INPUTS, labels=LABELS)
    with pytest.raises(InputError, match=sentence):
        npz(path=path, **options)


def test_files_that_are_no_npz(tmp_path):
    path = save(tmp_path, inputs=INPUTS, labels=LABELS)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:100] + b"x" * 50 + whole[150:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"truncated, damaged or no \.npz file"):
            npz(path=path)
    np.save(tmp_path / "single.npy", INPUTS)
    with pytest.raises(InputError, match=r"single array .*numpy\.savez"):
        npz(path=tmp_path / "single.npy")
    with pytest.raises(InputError, match=r"absent\.npz: the file cannot be read \(No such file"):
        npz(path=tmp_path / "absent.npz")
