"""CIFAR-10 and CIFAR-100, from binary files that the tests write."""

import io
import pickle
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from preceptor.data import cifar10, cifar100
from preceptor.errors import InputError

TRAIN, TEST = 20, 4


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A few records instead of 60,000, and no download cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("preceptor.data.cifar.TRAIN_RECORDS", TRAIN)
    monkeypatch.setattr("preceptor.data.cifar.TEST_RECORDS", TEST)


def records(labels, coarse=None):
    """One record a label: label bytes, then a red, a green and a blue plane of the value of the label."""
    rows = []
    for label in labels:
        planes = np.repeat(np.array([label, 100, 200], np.uint8), 1024)
        rows.append(bytes([*([] if coarse is None else [coarse]), label]) + planes.tobytes())
    return b"".join(rows)


def cifar10_files():
    names = "\n".join(f"class{i}" for i in range(10)) + "\n\n"
    batches = {f"data_batch_{i + 1}.bin": records(range(i, i + TRAIN // 5)) for i in range(5)}
    return {**batches, "test_batch.bin": records([9, 8, 7, 6]), "batches.meta.txt": names.encode()}


def cifar100_files():
    names = "\n".join(f"fine{i}" for i in range(100)) + "\n"
    train = records(range(80, 80 + TRAIN), coarse=255)
    return {"train.bin": train, "test.bin": records([1, 2, 3, 99], coarse=5), "fine_label_names.txt": names.encode()}


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def ten(tmp_path):
    return write(tmp_path / "data" / "cifar-10-batches-bin", cifar10_files())


def check_cifar10(data):
    inputs, labels = data.train.fetch(torch.arange(TRAIN))
    assert labels.tolist() == [i + j for i in range(5) for j in range(4)]
    pixels = torch.stack([labels, torch.full_like(labels, 100), torch.full_like(labels, 200)], 1) / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(inputs, ((pixels - mean) / std)[:, :, None, None].expand(-1, 3, 32, 32))
    assert data.test.labels.tolist() == [9, 8, 7, 6]
    assert data.class_names == tuple(f"class{i}" for i in range(10))
    assert data.train.inputs.dtype == torch.uint8


def test_cifar10_from_its_folder_or_the_one_above(ten):
    check_cifar10(cifar10(data_dir=str(ten.parent)))
    check_cifar10(cifar10(data_dir=ten))


def test_cifar10_from_the_archive(tmp_path):
    archive = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10_files())
    check_cifar10(cifar10(data_dir=tmp_path))
    check_cifar10(cifar10(data_dir=archive))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-binary.tar.gz"]  # nothing is unpacked


def test_cifar100_reads_the_fine_labels(tmp_path):
    write(tmp_path / "cifar-100-binary", cifar100_files())
    data = cifar100(data_dir=tmp_path)
    assert data.train.labels.tolist() == list(range(80, 100))
    assert data.test.labels.tolist() == [1, 2, 3, 99]
    assert data.train.inputs[0, :, 0, 0].tolist() == [80, 100, 200]
    assert data.class_names[99] == "fine99"
    assert data.input_shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data_batch_3.bin", records(range(4))[:-1], "data_batch_3.bin has 12291 bytes instead of 12292"),
        ("data_batch_3.bin", records(range(3)), "truncated"),
        ("data_batch_3.bin", records([0, 1, 2, 10]), "label of sample 11 is 10; with 10 classes"),
        ("test_batch.bin", b"", "test_batch.bin has 0 bytes"),
        ("batches.meta.txt", b"cat\ndog\n", "names 2 classes instead of 10"),
    ],
)
def test_damaged_files_are_refused(ten, name, content, sentence):
    (ten / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        cifar10(data_dir=ten)


def test_a_missing_batch_is_named(ten):
    (ten / "data_batch_5.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_5\.bin cannot be read"):
        cifar10(data_dir=ten)


def test_damaged_archives_are_refused(tmp_path):
    path = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar10_files())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no archive", whole[:20] + b"x" * 50 + whole[70:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"truncated or damaged|lacks"):
            cifar10(data_dir=tmp_path)
    pack(path, "elsewhere", cifar10_files())
    with pytest.raises(InputError, match=r"lacks data_batch_1\.bin, .*it is not cifar-10-binary\.tar\.gz"):
        cifar10(data_dir=tmp_path)


def test_links_in_an_archive_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(records(range(4)))
    files = cifar10_files()
    del files["test_batch.bin"]
    path = pack(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    with pytest.raises(InputError, match="lacks"):
        cifar10(data_dir=tmp_path)


class Bomb:
    """An object that would be noticed if it were unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("load", "name", "binary"),
    [
        (cifar10, "cifar-10-batches-py/data_batch_1", "cifar-10-binary.tar.gz"),
        (cifar10, "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
        (cifar10, "data_batch_1", "cifar-10-binary.tar.gz"),
        (cifar100, "cifar-100-python/train", "cifar-100-binary.tar.gz"),
        (cifar100, "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    ],
)
def test_pickled_batches_are_refused(tmp_path, load, name, binary):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb()))
    for data_dir in {tmp_path, path.parent, path} - {path if "batch" in name or "train" in name else None}:
        with pytest.raises(InputError, match=rf"is the pickled version of CIFAR.*{binary}"):
            load(data_dir=data_dir)


def test_missing_files_name_the_remedies(tmp_path):
    with pytest.raises(InputError, match=rf"CIFAR-100 .*is in none of {tmp_path}, .*cache.*download=True"):
        cifar100(data_dir=tmp_path)


def test_download_without_a_network_is_one_sentence(monkeypatch, tmp_path):
    def urlopen(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz could not be downloaded \(no route to host\)"):
        cifar10(data_dir=tmp_path / "new", download=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_download_keeps_the_archive_and_finds_it_again(monkeypatch, tmp_path):
    def fetch(url, path, md5):
        assert (url.rpartition("/")[2], md5) == (path.name, "03b5dce01913d631647c71ecec9e9cb8")
        path.parent.mkdir(parents=True)
        pack(path, "cifar-100-binary", cifar100_files())

    monkeypatch.setattr("preceptor.data.cifar.download", fetch)
    assert len(cifar100(download=True).train) == TRAIN
    assert (tmp_path / "cache" / "preceptor" / "cifar-100-binary.tar.gz").exists()
    assert len(cifar100().train) == TRAIN
