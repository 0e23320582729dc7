"""Fashion-MNIST, from IDX files that the tests write."""

import gzip
import importlib
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from preceptor.data import fashion_mnist
from preceptor.errors import InputError

MODULE = importlib.import_module("preceptor.data.fashion_mnist")  # the package's attribute is the function
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAIN_IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)


def idx(array, magic=None):
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path):
    """No download cache and no Debian package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(MODULE, "DEBIAN", tmp_path / "debian")


@pytest.fixture
def folder(tmp_path):
    """Twelve training and ten test images; the test images compressed."""
    labels = np.arange(12, dtype=np.uint8) % 10
    for name, array in zip(NAMES, (TRAIN_IMAGES, labels, TRAIN_IMAGES[:10], labels[:10]), strict=True):
        path = tmp_path / "data" / (name + ".gz" * name.startswith("t10k"))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(idx(array)) if path.suffix else idx(array))
    return tmp_path / "data"


def test_raw_and_compressed_files(folder):
    data = fashion_mnist(data_dir=str(folder))
    inputs, labels = data.train.fetch(torch.arange(12))
    expected = (torch.from_numpy(TRAIN_IMAGES).unsqueeze(1) / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(inputs, expected)
    assert labels.tolist() == [*range(10), 0, 1]
    assert len(data.test) == 10
    assert (data.input_shape, data.num_classes, data.class_names[9]) == ((1, 28, 28), 10, "Ankle boot")
    assert data.preprocessing == {"divide_by": 255.0, "mean": [0.2860], "std": [0.3530]}


@pytest.mark.parametrize("inside", ["fashion-mnist", "FashionMNIST/raw"])
def test_known_folders_inside_data_dir(folder, tmp_path, inside):
    target = tmp_path / "all" / inside
    target.parent.mkdir(parents=True)
    folder.rename(target)
    assert len(fashion_mnist(data_dir=tmp_path / "all").train) == 12


def test_missing_files_name_the_folders_and_the_remedies(tmp_path):
    with pytest.raises(InputError, match=rf"is in none of {tmp_path}/a, .*data_dir.*download=True"):
        fashion_mnist(data_dir=tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (NAMES[0], idx(TRAIN_IMAGES)[:-1], "needs 9424; it is truncated"),
        (NAMES[0], idx(TRAIN_IMAGES) + b"x", "damaged"),
        (NAMES[0], idx(TRAIN_IMAGES)[:9], "truncated"),
        (NAMES[0], b"", "starts with nothing"),
        (NAMES[0], idx(TRAIN_IMAGES, magic=0x0802), "starts with 00000802, not with 00000803"),
        (NAMES[0], idx(TRAIN_IMAGES, magic=0x10803), "starts with 00010803"),
        (NAMES[0], idx(TRAIN_IMAGES[:, 1:]), r"holds images of \(27, 28\) pixels"),
        (NAMES[1], idx(np.arange(12, dtype=np.uint8)), "train-labels.*label of sample 10 is 10; with 10 classes"),
        (NAMES[1], idx(np.zeros(11, np.uint8)), "12 inputs but 11 labels"),
        (NAMES[2] + ".gz", gzip.compress(idx(TRAIN_IMAGES[:10]), mtime=0)[:-9], "truncated or damaged"),
        (NAMES[2] + ".gz", idx(TRAIN_IMAGES[:10]), "damaged"),
    ],
)
def test_damaged_files_are_refused(folder, name, content, sentence):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        fashion_mnist(data_dir=folder)


def test_any_flipped_bit_of_the_header_is_refused(folder):
    good = idx(TRAIN_IMAGES)
    for bit in range(8 * 16):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (folder / NAMES[0]).write_bytes(bad)
        with pytest.raises(InputError):
            fashion_mnist(data_dir=folder)


def test_download_without_a_network_is_one_sentence(monkeypatch, tmp_path):
    def urlopen(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz could not be downloaded \(no route to host\)"):
        fashion_mnist(data_dir=tmp_path / "new", download=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_download_fetches_what_is_missing(monkeypatch, folder, tmp_path):
    asked = []

    def fetch(url, path, md5):
        asked.append(url.rpartition("/")[2])
        source = folder / path.name if (folder / path.name).exists() else folder / path.stem
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes() if source.suffix else gzip.compress(source.read_bytes()))

    monkeypatch.setattr(MODULE, "download", fetch)
    assert len(fashion_mnist(download=True).test) == 10
    assert asked == [f"{name}.gz" for name in NAMES]
    assert (tmp_path / "cache" / "preceptor" / "fashion-mnist" / f"{NAMES[0]}.gz").exists()
    assert len(fashion_mnist().train) == 12  # the cache is found again
