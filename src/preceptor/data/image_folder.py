"""A tree of image files, one folder a class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor.data.class_names import refuse_difference
from preceptor.data.dataset import Data, with_heldout
from preceptor.data.ids import paths_below
from preceptor.data.images import SUFFIXES, Size, image_datasets
from preceptor.data.normalize import normalize_of
from preceptor.errors import InputError

Files = tuple[list[Path], list[int]]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLUTTER = ("Thumbs.db", "desktop.ini")  # written by file managers; theirs on other systems are hidden


def image_folder(
    *,
    folder: str | Path,
    size: Size = None,
    mean: float | Sequence[float] = MEAN,
    std: float | Sequence[float] = STD,
    in_memory: bool | None = None,
) -> Data:
    """Image files in folders named after their classes: `folder/train/CLASS/*.jpg`.

    `folder/test` and `folder/val` hold the same classes. Where both are there, `val` is the held-out set and `test` the
    test set; one alone is the test set. Without a folder `train` the classes are looked for in `folder` itself, and the
    split of the recipe cuts held-out and test samples. Classes are numbered in the order of their names, images are
    ordered by path, and those in folders within a class's folder are its, too. An image's id is its path below the
    part's folder, `CLASS/name.jpg`.

    Inputs are float32 (3, height, width), red, green, blue: pixels divided by 255, minus `mean`, divided by `std`.
    Grayscale is copied into the three colours, alpha is dropped. In memory they stay uint8; of more than 4 GiB files
    are read as they are asked for (then `training.num_workers` helps).

    Args:
        folder: the tree.
        size: pixels of a side, or (height, width): each image is scaled, bilinearly, to cover it, and its middle is
            kept. Without it all must have one size.
        mean: subtracted; one number, or one a colour (default: ImageNet's, which pretrained models expect).
        std: divided by, likewise.
        in_memory: decode all at once (True), or each as it is asked for (False), whatever they take.

    Raises:
        InputError: Pillow is missing; no such folder, no classes, a class without images, classes that differ between
            train, val and test; a file that is no image, damaged or, without `size`, of another size than the first.

    >>> import tempfile
    >>> from PIL import Image
    >>> tree = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (tree / name).mkdir()
    ...     Image.new("RGB", (40, 30)).save(tree / name / "0.png")
    >>> data = image_folder(folder=tree, size=32)
    >>> data.class_names, data.input_shape, data.test
    (('cat', 'dog'), (3, 32, 32), None)
    """
    tree = Path(folder).expanduser()
    if not tree.is_dir():
        raise InputError(f"there is no folder '{tree}'; give folder, one that holds train/CLASS/IMAGE or CLASS/IMAGE")
    normalize = normalize_of(mean, std, channels=3, divide_by=255.0)
    places = _places(tree)
    names = {part: _class_names(place) for part, place in places.items()}
    for part, theirs in names.items():
        refuse_difference(names["train"], theirs, f"{places['train']}", f"{places[part]}")
    files = {part: _files(place, names["train"]) for part, place in places.items()}
    sets: dict[str, Any] = image_datasets(files, size=size, normalize=normalize, in_memory=in_memory)
    for part, place in places.items():
        sets[part].ids = paths_below(files[part][0], place)
    data = Data(sets["train"], sets.get("test"), names["train"], normalize.as_json())
    return with_heldout(data, sets["heldout"]) if "heldout" in sets else data


def _places(tree: Path) -> dict[str, Path]:
    """The folders of the parts of a tree."""
    there = {part: tree / part for part in ("train", "val", "test") if (tree / part).is_dir()}
    if not there:
        return {"train": tree}
    if "train" not in there:
        raise InputError(f"{tree} holds '{next(iter(there))}' and no 'train'; name the training images' folder so")
    if "test" in there and "val" in there:
        there["heldout"] = there["val"]
    elif "val" in there:
        there["test"] = there["val"]
    return {part: there[part] for part in ("train", "test", "heldout") if part in there}


def _class_names(place: Path) -> tuple[str, ...]:
    """The names of the folders in a folder."""
    names = sorted(entry.name for entry in _visible(place) if entry.is_dir())
    if len(names) < 2:
        raise InputError(
            f"{place} holds {len(names)} folders and a class is a folder of images; give a folder of two or more"
        )
    return tuple(names)


def _files(place: Path, names: Sequence[str]) -> Files:
    """The image files of each class, by path, and their labels."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = images_in(place / name)
        if not found:
            raise InputError(f"the class folder {place / name} holds no image; put some into it or remove it")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and those below, by path; hidden ones are left out.

    Raises:
        InputError: another file is among them.
    """
    found: list[Path] = []
    for entry in _visible(folder):
        path = Path(entry.path)
        if entry.is_dir():
            found += images_in(path)
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
        else:
            raise InputError(f"{path} is no image by its name ({', '.join(SUFFIXES)}); take it out of the folder")
    return sorted(found)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _CLUTTER]
