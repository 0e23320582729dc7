"""Images for the benchmarks, from .npz files of JPEGs: CIFAR-10, and 100 classes of Tiny-ImageNet at 32 pixels.

python benchmarks/images.py FOLDER [CACHE]    # decode both, and say what there is

FOLDER holds `cifar10_jpeg.npz` (`train_jpeg`: the bytes of all files, `train_offsets` (N + 1,), `train_labels`; `test_`
likewise; `class_names`) and `tinyimagenet100_32px.npz` (the same with `train_tiles` and `val_tiles`, in which each file
is a sheet of 10x10 images in row order). Both are lossy: compare nothing with published accuracies.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from preceptor.data.cifar import CIFAR10
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.runs.files import atomic_path

CIFAR10_FILE, TINY_FILE = "cifar10_jpeg.npz", "tinyimagenet100_32px.npz"
# Of the training pixels, divided by 255.
TINY = Normalize(divide_by=255.0, mean=(0.4839, 0.4525, 0.4000), std=(0.2600, 0.2510, 0.2655))
SIDE, TILES = 32, 10  # pixels of an image, images of a sheet each way


class Images(NamedTuple):
    """One split: `pixels` uint8 (N, 3, 32, 32), `labels` int64 (N,), and the classes' names."""

    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def dataset(self, normalize: Normalize) -> ArrayDataset:
        """The same as a data set."""
        labels = torch.from_numpy(self.labels)
        return ArrayDataset(torch.from_numpy(self.pixels), labels, num_classes=len(self.names), transform=normalize)


def cifar10(folder: Path | str, split: str, cache: Path | str | None = None) -> Images:
    """CIFAR-10 as JPEG, in the original order: 50,000 images of the split "train", 10,000 of "test"."""
    return _read(Path(folder) / CIFAR10_FILE, split, cache)


def tinyimagenet(folder: Path | str, split: str, cache: Path | str | None = None) -> Images:
    """100 classes of Tiny-ImageNet: 50,000 images of the split "train", 5,000 of "val"."""
    return _read(Path(folder) / TINY_FILE, split, cache)


def cifar10_data(folder: Path | str, cache: Path | str | None = None) -> Data:
    """CIFAR-10 to train and test on."""
    train, test = (cifar10(folder, split, cache) for split in ("train", "test"))
    normalize = CIFAR10.normalize
    return Data(train.dataset(normalize), test.dataset(normalize), train.names, normalize.as_json())


def tinyimagenet_data(folder: Path | str, cache: Path | str | None = None) -> Data:
    """100 classes of Tiny-ImageNet to train and test on; the test images are those of "val"."""
    train, test = (tinyimagenet(folder, split, cache) for split in ("train", "val"))
    return Data(train.dataset(TINY), test.dataset(TINY), train.names, TINY.as_json())


def reduced(data: Data, count: int, shrunk: int = 1) -> Data:
    """The first training images and all test images, in fewer pixels.

    Args:
        count: of training images.
        shrunk: how many pixels, each way, become one, which is their mean.
    """

    def smaller(part: Any, count: int | None) -> ArrayDataset:
        pixels = part.inputs[:count]
        if shrunk > 1:
            pixels = F.avg_pool2d(pixels.float(), shrunk).round().to(pixels.dtype)
        classes = len(data.class_names) if data.class_names else None
        return ArrayDataset(pixels, part.labels[:count], num_classes=classes, transform=part.transform)

    return replace(data, train=smaller(data.train, count), test=smaller(data.test, None))


def _read(path: Path, split: str, cache: Path | str | None) -> Images:
    """One split of a file; its pixels from the folder `cache` if they have been put there before."""
    with np.load(path, allow_pickle=False) as file:
        labels = file[f"{split}_labels"].astype(np.int64)
        names = tuple(map(str, file["class_names"]))
        cached = None if cache is None else Path(cache) / f"{path.stem}-{split}-{path.stat().st_size}.npz"
        if cached is not None and cached.exists():
            return Images(np.load(cached)["pixels"], labels, names)
        pixels = decode(dict(file), split)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cached) as temporary, open(temporary, "wb") as written:
            np.savez(written, pixels=pixels)
    return Images(pixels, labels, names)


def decode(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
    """The images of one split, uint8 (N, 3, H, W): JPEG files, or sheets of them."""
    offsets = arrays[f"{split}_offsets"]
    if f"{split}_tiles" not in arrays:
        return np.stack(list(_files(arrays[f"{split}_jpeg"], offsets)))
    shape = 3, TILES, SIDE, TILES, SIDE
    sheets = [sheet.reshape(shape).transpose(1, 3, 0, 2, 4) for sheet in _files(arrays[f"{split}_tiles"], offsets)]
    return np.stack(sheets).reshape(-1, 3, SIDE, SIDE)


def _files(buffer: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
    """Each file between two offsets, uint8 (3, H, W)."""
    from PIL import Image

    for start, end in itertools.pairwise(offsets):
        yield np.asarray(Image.open(BytesIO(buffer[start:end].tobytes())).convert("RGB")).transpose(2, 0, 1)


if __name__ == "__main__":
    folder, *rest = map(Path, sys.argv[1:])
    cache = rest[0] if rest else None
    for name, load in (("CIFAR-10", cifar10_data), ("Tiny-ImageNet", tinyimagenet_data)):
        data: Any = load(folder, cache)
        print(name, *(tuple(part.inputs.shape) for part in (data.train, data.test)), len(data.class_names))
