"""What somebody wants predictions for: files of images, of text lines and of arrays, read as the run's data were."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.data.arrays import read_npy, read_npz
from preceptor.data.files import blamed_on
from preceptor.data.images import SUFFIXES, image_size, read_image
from preceptor.data.labels import dense_tensor
from preceptor.data.text import padded, text_bytes
from preceptor.errors import InputError
from preceptor.serving.served import Served

_ARRAYS = (".npz", ".npy")


@dataclass(frozen=True, eq=False)
class Part:
    """Raw inputs (n, ...) and where they come from."""

    source: str
    inputs: Tensor


def parts_of(given: Any, served: Served, *, resize: bool) -> Iterator[Part]:
    """Files one after another, or what was handed over.

    Args:
        given: a path or several; a text or several, for a run of texts; an array or tensor (N, ...).
        served: the model, which says what it can read.
        resize: scale and crop images of another size.

    Raises:
        InputError: naming the file, or what was handed over.
    """
    if isinstance(given, Tensor | np.ndarray):
        yield Part("", _checked(dense_tensor(given, "inputs"), served, "the array"))
        return
    several = [given] if isinstance(given, str | Path) else list(given)
    if not several:
        raise InputError("there is nothing to predict; give files, texts or an array")
    for each in several:
        if not isinstance(each, str | Path):
            raise InputError(f"the input is a {type(each).__name__}; give paths, texts or an array")
    if served.is_text and not any(isinstance(each, Path) for each in several):
        yield Part("", _rows(several, served, "text"))
        return
    for path in map(Path, several):
        yield Part(str(path), _read(path, served, resize))


def _read(path: Path, served: Served, resize: bool) -> Tensor:
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; give files of images, arrays (.npz, .npy) or lines of text")
    if path.suffix.lower() in SUFFIXES:
        return _image(path, served, resize)
    if path.suffix.lower() in _ARRAYS:
        with blamed_on(path):
            return _checked(_array(path), served, "the array")
    if not served.is_text:
        kinds = f"images ({', '.join(SUFFIXES)}) or arrays" if _reads_images(served) else "arrays"
        raise InputError(f"'{path}' is no file that '{served.name}' can read by its name; give {kinds} (.npz, .npy)")
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (UnicodeDecodeError, OSError):
        raise InputError(f"'{path}' is not text in UTF-8; give a file with a text on each line") from None
    with blamed_on(path):
        return _rows([line.removesuffix("\r") for line in lines], served, "line")


def _reads_images(served: Served) -> bool:
    return served.is_pixels and len(served.weights.input_shape) == 3 and served.weights.input_shape[0] in (1, 3)


def _image(path: Path, served: Served, resize: bool) -> Tensor:
    if not _reads_images(served):
        what = "texts" if served.is_text else f"numbers of shape {served.weights.input_shape}, and no bytes of images"
        remedy = "files of text lines" if served.is_text else "arrays (.npz, .npy)"
        raise InputError(f"'{path}' is an image, and '{served.name}' was trained on {what}; give {remedy}")
    channels, height, width = served.weights.input_shape
    own = image_size(path)
    if own != (height, width) and not resize:
        raise InputError(
            f"'{path}' has {own[0]}x{own[1]} pixels (height x width), and '{served.name}' was trained on "
            f"{height}x{width}; scale and crop it with resize=True",
            argument="resize",
        )
    pixels = torch.from_numpy(read_image(path, (height, width), None))
    if channels == 1:
        if not (pixels == pixels[:1]).all():
            raise InputError(f"'{path}' is coloured, and '{served.name}' was trained on gray images; make it gray")
        pixels = pixels[:1]
    return pixels[None]


def _array(path: Path) -> Tensor:
    if path.suffix.lower() == ".npy":
        return dense_tensor(read_npy(path), "numbers")
    arrays = read_npz(path)
    if "inputs" not in arrays:
        raise InputError(f"there is no array 'inputs', only {', '.join(sorted(arrays)) or 'none at all'}; name it so")
    return dense_tensor(arrays["inputs"], "numbers")


def _checked(inputs: Tensor, served: Served, what: str) -> Tensor:
    shape = served.weights.input_shape
    wanted = (inputs.shape[1:] == shape) if not served.is_text else inputs.ndim == 2
    if inputs.ndim < 1 or not wanted:
        raise InputError(
            f"{what} has shape {tuple(inputs.shape)}, and '{served.name}' was trained on inputs of shape {shape}; give "
            f"{('N', *shape)}".replace("'N'", "N")
        )
    if len(inputs) == 0:
        raise InputError(f"{what} holds no sample; give one or more")
    if inputs.is_complex():
        raise InputError(f"{what} is of {inputs.dtype}; give real numbers")
    if inputs.is_floating_point():
        bad = ~inputs.isfinite().flatten(1).all(1)
        if bad.any():
            raise InputError(f"row {int(bad.nonzero()[0])} of {what} is not finite; mend it or leave it out")
        return inputs.to(torch.float32)
    return inputs if inputs.dtype == torch.uint8 or not served.is_normalized else inputs.to(torch.float32)


def _rows(texts: Sequence[Any], served: Served, what: str) -> Tensor:
    most = served.weights.preprocessing["max_bytes"]
    encoded: list[bytes] = []
    for row, text in enumerate(texts):
        with blamed_on(f"{what} {row}"):
            encoded.append(text_bytes(text, most))
    # At least as long as in training, for a model that reads rows of one length.
    return padded(encoded, max(served.weights.input_shape[0], *map(len, encoded), 1))


def batches(parts: Iterable[Part], size: int) -> Iterator[Tensor]:
    """Inputs of one dtype and length together, up to `size` of them, in their order."""
    waiting: list[Tensor] = []
    for part in parts:
        for piece in part.inputs.split(size):
            alike = waiting and (waiting[0].shape[1:], waiting[0].dtype) == (piece.shape[1:], piece.dtype)
            if waiting and (not alike or sum(map(len, waiting)) + len(piece) > size):
                yield torch.cat(waiting)
                waiting = []
            waiting.append(piece)
    if waiting:
        yield torch.cat(waiting)
