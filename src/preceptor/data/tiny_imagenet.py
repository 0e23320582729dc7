"""Tiny-ImageNet, as its archive unpacks."""

from collections.abc import Sequence
from pathlib import Path

from preceptor.data.dataset import Data
from preceptor.data.files import cache_folder, read_bytes
from preceptor.data.image_folder import images_in
from preceptor.data.images import Size, image_datasets
from preceptor.data.normalize import normalize_of
from preceptor.errors import InputError

FOLDER = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{FOLDER}.zip"
# Of the training pixels, divided by 255.
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def tiny_imagenet(
    *,
    data_dir: str | Path | None = None,
    size: Size = None,
    mean: float | Sequence[float] = MEAN,
    std: float | Sequence[float] = STD,
    in_memory: bool | None = None,
) -> Data:
    """Tiny-ImageNet: 100,000 training and 10,000 validation photographs of 64x64 pixels in 200 classes.

    The validation images are the test set, as in the literature; the labels of the test images were never published.
    Inputs are float32 (3, 64, 64), red, green, blue: pixels divided by 255, normalised per channel by the training
    set's mean and standard deviation. In memory they stay uint8. Classes are numbered in the order of their WordNet
    ids and called by their first word in `words.txt`; where two have one word, the id follows.

    The folder `tiny-imagenet-200` (with `wnids.txt`, `words.txt`, `train/WNID/images/*.JPEG`, `val/images/*.JPEG`,
    `val/val_annotations.txt`) is looked for in `data_dir` and in the download cache; `data_dir` may be that folder.

    Args:
        data_dir: where to look first.
        size: pixels of a side, or (height, width), that images are scaled to; 64 without it.
        mean: subtracted; one number, or one a colour.
        std: divided by, likewise.
        in_memory: decode all at once (True, 1.4 GB at 64 pixels), or each as it is asked for (False); without it, at
            once if they take no more than 4 GiB.

    Raises:
        InputError: Pillow is missing; a folder or file is missing, damaged or of another size; a class without images;
            an annotation of no image or no class, or an image without one.

    Source: Le and Yang, Tiny ImageNet Visual Recognition Challenge (2015).
    """
    normalize = normalize_of(mean, std, channels=3, divide_by=255.0)
    folder = _find(data_dir)
    ids = sorted(set(_lines(folder / "wnids.txt")))
    if len(ids) < 2:
        raise InputError(f"{folder / 'wnids.txt'} names {len(ids)} classes instead of 200; unpack {URL} again")
    parts = {"train": _train(folder / "train", ids), "test": _val(folder / "val", ids)}
    sets = image_datasets(parts, size=size, normalize=normalize, in_memory=in_memory)
    return Data(sets["train"], sets["test"], _names(folder / "words.txt", ids), normalize.as_json())


def _find(data_dir: str | Path | None) -> Path:
    folders = [*([] if data_dir is None else [Path(data_dir).expanduser()]), cache_folder()]
    for folder in folders:
        for place in (folder / FOLDER, folder):
            if (place / "wnids.txt").is_file():
                return place
    raise InputError(
        f"Tiny-ImageNet ({FOLDER}/wnids.txt) is in none of {', '.join(map(str, folders))}; unpack {URL} into one of "
        "them, or give data_dir"
    )


def _lines(path: Path) -> list[str]:
    return read_bytes(path).decode("utf-8", "replace").splitlines()


def _train(folder: Path, ids: Sequence[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(ids):
        place = folder / wnid / "images"
        found = images_in(place) if place.is_dir() else []
        if not found:
            raise InputError(f"the class folder {place} holds no image; unpack the archive again")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _val(folder: Path, ids: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Image files and labels, as `val_annotations.txt` names them: file, class, and a box that is not read."""
    label_of = {wnid: label for label, wnid in enumerate(ids)}
    annotations = folder / "val_annotations.txt"
    paths: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(_lines(annotations), 1):
        name, wnid, *_ = [*line.split("\t"), "", ""]
        if wnid not in label_of:
            raise InputError(f"line {number} of {annotations} names no class of wnids.txt ('{wnid}'); unpack it again")
        paths.append(folder / "images" / name)
        labels.append(label_of[wnid])
    known, there = set(paths), set(images_in(folder / "images"))
    if known != there:
        path = min(known ^ there)
        what = "is missing" if path in known else f"stands in no line of {annotations}"
        raise InputError(f"the image {path} {what}; unpack the archive again")
    return paths, labels


def _names(path: Path, ids: Sequence[str]) -> tuple[str, ...]:
    """What classes are called: the first of the words of each, with the id where two have one."""
    words: dict[str, str] = {}
    for line in _lines(path):
        wnid, _, said = line.partition("\t")
        words[wnid] = said
    first = [words.get(wnid, wnid).partition(",")[0].strip() for wnid in ids]
    return tuple(word if first.count(word) == 1 else f"{word} ({wnid})" for word, wnid in zip(first, ids, strict=True))
