"""Image files as data sets: decoded once into uint8 where that fits memory, else one by one as they are asked for.

Pillow is optional (`pip install 'preceptor[images]'`). Every image becomes red, green, blue of 8 bits: grayscale is
copied into all three, a palette is looked up, alpha is dropped; how a camera was held (EXIF) is not looked at.
"""

import importlib
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from preceptor.data.dataset import ArrayDataset
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_BYTES = 2**32
"""Up to so many bytes of pixels are held in memory, unless the caller says otherwise."""
_DEEP = ("I", "F")  # modes of more than 8 bits, which Pillow would cut off at white
_READERS = min(8, os.cpu_count() or 1)  # threads: Pillow decodes outside of Python's lock

Size = int | Sequence[int] | None


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of image files, each read when it is asked for.

    Args:
        paths: the files.
        labels: int64 (N,).
        size: (height, width) of an input.
        like: the file that has this size, where another one is refused; None: scale and crop to it.
        normalize: from pixels to inputs, float32 (3, height, width).
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, *, size: tuple[int, int], like: Path | None, normalize: Normalize
    ) -> None:
        self.paths: list[Path] = list(paths)
        self.labels: Tensor = labels
        self.size: tuple[int, int] = size
        self.like: Path | None = like
        self.normalize: Normalize = normalize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(self.pixels(index))[None]
        return self.normalize(pixels)[0], self.labels[index]

    def pixels(self, index: int) -> np.ndarray:
        """One image, uint8 (3, height, width).

        Raises:
            InputError: naming the file: it is no image, damaged, or of another size.
        """
        return read_image(self.paths[index], self.size, self.like)

    def in_memory(self) -> ArrayDataset:
        """The same data set, all files decoded.

        Raises:
            InputError: as `pixels`, of the first file that cannot be read.
        """
        pixels = np.empty((len(self), 3, *self.size), np.uint8)

        def read(index: int) -> None:
            pixels[index] = self.pixels(index)

        with ThreadPoolExecutor(_READERS) as readers:
            waiting = [readers.submit(read, index) for index in range(len(self))]
            try:
                for one in waiting:
                    one.result()
            finally:
                readers.shutdown(cancel_futures=True)
        return ArrayDataset(torch.from_numpy(pixels), self.labels, transform=self.normalize)


def image_datasets(
    parts: Mapping[str, tuple[Sequence[Path], Sequence[int]]],
    *,
    size: Size,
    normalize: Normalize,
    in_memory: bool | None,
) -> dict[str, Dataset[Any]]:
    """The data sets of some parts, each given as its files and their labels, of one size.

    Args:
        size: pixels of a side, or (height, width): images are scaled to cover it and their middle is kept; None: all
            have the size of the first.
        in_memory: decode all now; None: if the pixels of all parts take no more than `MOST_BYTES`.

    Raises:
        InputError: Pillow is missing, no such size, or a file that cannot be read (in memory: of all, else the first).
    """
    first = next(iter(parts.values()))[0][0]
    height, width = sides(size) or image_size(first)
    like = first if size is None else None
    if in_memory is None:
        in_memory = sum(len(paths) for paths, _ in parts.values()) * 3 * height * width <= MOST_BYTES
    found: dict[str, Dataset[Any]] = {}
    for part, (paths, labels) in parts.items():
        files = ImageFiles(paths, torch.tensor(labels), size=(height, width), like=like, normalize=normalize)
        found[part] = files.in_memory() if in_memory else files
    return found


def sides(size: Size) -> tuple[int, int] | None:
    """Height and width, of one number or of two.

    >>> sides(32), sides([24, 48])
    ((32, 32), (24, 48))

    Raises:
        InputError: anything else.
    """
    if size is None:
        return None
    given = list(size) if isinstance(size, Sequence) else [size, size]
    if len(given) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in given):
        raise InputError(f"size is {size!r}; give pixels above 0, size=32, or height and width, size=[32, 48]")
    return given[0], given[1]


def read_image(path: Path, size: tuple[int, int], like: Path | None) -> np.ndarray:
    """The pixels of one file, uint8 (3, height, width).

    Args:
        size: (height, width) that it must have, or is scaled and cropped to.
        like: the file whose size it must have; None: scale and crop.

    Raises:
        InputError: naming the file: it is no image, damaged, of more than 8 bits or of another size.
    """
    pillow = _pillow("Image")
    with _opened(path) as image:
        if image.mode.partition(";")[0] in _DEEP:
            raise InputError(f"{path} has more than 8 bits a pixel (mode {image.mode}); save it with 8 bits")
        try:
            image.load()
            if "transparency" in image.info:  # Pillow would warn of what is meant: the alpha is dropped
                image = image.convert("RGBA")
            image = image.convert("RGB")
        except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
            raise InputError(f"{path} is truncated or damaged ({error}); repair or remove it") from None
    if (image.height, image.width) != size:
        if like is not None:
            raise InputError(
                f"{path} has {image.height}x{image.width} pixels (height x width) and {like} {size[0]}x{size[1]}; give "
                f"one size for all, such as size={min(size)}"
            )
        image = _pillow("ImageOps").fit(image, (size[1], size[0]), method=pillow.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, of which no more is read.

    Raises:
        InputError: Pillow is missing, or the file is no image.
    """
    with _opened(path) as image:
        return image.height, image.width


def _opened(path: Path) -> Any:
    pillow = _pillow("Image")
    try:
        return pillow.open(path)
    except pillow.UnidentifiedImageError:
        raise InputError(f"{path} is no image that Pillow can read; repair or remove it") from None
    except (OSError, SyntaxError, ValueError, struct.error, pillow.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as an image ({reason}); repair or remove it") from None


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError:
        raise InputError("image files need Pillow; run pip install 'preceptor[images]'") from None
