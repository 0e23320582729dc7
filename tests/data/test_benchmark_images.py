"""The benchmarks' files of images: packed by the test, without loss, and read."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import images


def packed(pictures):
    """Files behind each other, and where each begins."""
    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


def noise(*shape):
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


def test_cifar10(tmp_path):
    pictures, arrays = noise(5, 32, 32, 3), {"class_names": np.array(["cat", "dog"])}
    for split, some in (("train", pictures[:3]), ("test", pictures[3:])):
        arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"] = packed(some)
        arrays[f"{split}_labels"] = np.arange(len(some), dtype=np.uint8) % 2
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    data = images.cifar10_data(tmp_path)
    assert torch.equal(data.train.inputs, torch.from_numpy(pictures[:3].transpose(0, 3, 1, 2)))
    assert torch.equal(data.test.inputs, torch.from_numpy(pictures[3:].transpose(0, 3, 1, 2)))
    assert (data.train.labels.tolist(), data.class_names) == ([0, 1, 0], ("cat", "dog"))


def test_sheets_of_tiny_imagenet_and_their_cache(tmp_path):
    sheets = noise(2, 320, 320, 3)
    tiles, offsets = packed(sheets)
    arrays = {"val_tiles": tiles, "val_offsets": offsets, "val_labels": np.arange(200, dtype=np.uint8)}
    np.savez(tmp_path / "tinyimagenet100_32px.npz", class_names=np.array([f"c{n}" for n in range(200)]), **arrays)
    for _ in range(2):
        found = images.tinyimagenet(tmp_path, "val", tmp_path / "cache")
        assert (found.pixels.shape, found.pixels.dtype, found.labels.dtype) == ((200, 3, 32, 32), np.uint8, np.int64)
        for number in (0, 7, 30, 137):
            sheet, row, column = number // 100, number % 100 // 10, number % 10
            cut = sheets[sheet, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            assert np.array_equal(found.pixels[number], cut.transpose(2, 0, 1))
    (cached,) = (tmp_path / "cache").iterdir()
    np.savez(cached, pixels=np.zeros((200, 3, 32, 32), np.uint8))
    assert not images.tinyimagenet(tmp_path, "val", tmp_path / "cache").pixels.any()  # it is what is read
    with pytest.raises(KeyError, match="train_labels"):
        images.tinyimagenet(tmp_path, "train")
