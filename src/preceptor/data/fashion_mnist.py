"""Fashion-MNIST: 70,000 images of clothes, from its four IDX files."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.files import blamed_on, cache_folder, download, read_bytes
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
# Of the compressed files, as published in the project's README; the transport itself is not encrypted.
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
NORMALIZE = Normalize(divide_by=255.0, mean=(0.2860,), std=(0.3530,))


def fashion_mnist(*, data_dir: str | Path | None = None, download: bool = False) -> Data:
    """Fashion-MNIST: 60,000 training and 10,000 test images in 10 classes.

    Inputs are float32 (1, 28, 28): pixels divided by 255, minus 0.2860, divided by 0.3530 (the mean and
    standard deviation of the training pixels). In memory they stay uint8.

    The four IDX files, compressed or not, are looked for in `data_dir`, in its folders `fashion-mnist` and
    `FashionMNIST/raw`, in the download cache and where the Debian package `dataset-fashion-mnist` puts them.

    Args:
        data_dir: folder to look in first, and to download to.
        download: fetch the files (30 MB) if none of the folders has them, checked against their MD5.

    Raises:
        InputError: files missing, truncated, damaged or of another format; no network.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST (2017), arXiv:1708.07747, MIT licence.
    """
    paths = _find(data_dir) or (_download(data_dir) if download else None)
    if paths is None:
        looked = ", ".join(str(folder) for folder in _folders(data_dir))
        raise InputError(
            f"Fashion-MNIST ({FILES[0]}[.gz] and three more) is in none of {looked}; give data_dir, let it "
            "be downloaded (download=True), or install the Debian package dataset-fashion-mnist"
        )
    train, test = _images(paths[0], paths[1]), _images(paths[2], paths[3])
    return Data(train, test, CLASSES, NORMALIZE.as_json())


def _folders(data_dir: str | Path | None) -> list[Path]:
    given = [] if data_dir is None else [Path(data_dir).expanduser()]
    inside = [folder / name for folder in given for name in ("fashion-mnist", "FashionMNIST/raw")]
    return [*given, *inside, cache_folder() / "fashion-mnist", DEBIAN]


def _find(data_dir: str | Path | None) -> list[Path] | None:
    """The four files of the first folder that has them all."""
    for folder in _folders(data_dir):
        found = [path for name in FILES for path in _either(folder / name)]
        if len(found) == len(FILES):
            return found
    return None


def _either(path: Path) -> list[Path]:
    """The file, or its compressed twin, or nothing."""
    return [candidate for candidate in (path, path.with_name(path.name + ".gz")) if candidate.is_file()][:1]


def _download(data_dir: str | Path | None) -> list[Path]:
    folder = cache_folder() / "fashion-mnist" if data_dir is None else Path(data_dir).expanduser()
    paths = [folder / f"{name}.gz" for name in FILES]
    for path, name in zip(paths, FILES, strict=True):
        if not path.exists():
            download(f"{URL}/{path.name}", path, MD5[name])
    return paths


def _images(images_path: Path, labels_path: Path) -> ArrayDataset:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise InputError(f"{images_path} holds images of {tuple(images.shape[1:])} pixels, not (28, 28)")
    with blamed_on(labels_path):
        return ArrayDataset(images.unsqueeze(1), labels, num_classes=len(CLASSES), transform=NORMALIZE)


def read_idx(path: Path, axes: int) -> Tensor:
    """The uint8 array of an IDX file with so many axes.

    The format: two zero bytes, a byte 8 for unsigned bytes, a byte for the number of axes; the sizes as
    big-endian 32-bit numbers; the values, last axis fastest.

    Raises:
        InputError: another magic number, or a length that is not what the header says.
    """
    content = read_bytes(path)
    magic, wanted = content[:4].hex(), f"000008{axes:02x}"
    if magic != wanted:
        raise InputError(
            f"{path} starts with {magic or 'nothing'}, not with {wanted}; it is no IDX file of {axes} axes"
        )
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start].ljust(4 * axes, b"\0"), ">u4").tolist())
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise InputError(
            f"{path} has {len(content)} bytes but its header {shape} needs {expected}; it is truncated or "
            "damaged, fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
