"""CIFAR-10 and CIFAR-100, from their binary version; the "python version" is pickled and never opened."""

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.files import blamed_on, cache_folder, download, read_bytes
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError

PIXELS = 3 * 32 * 32
TRAIN_RECORDS, TEST_RECORDS = 50_000, 10_000
URL = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class Version:
    """Where a data set lies, and its records: label bytes, of which the last counts, then pixels."""

    title: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    num_classes: int
    label_bytes: int
    pickled: tuple[str, ...]
    normalize: Normalize


CIFAR10 = Version(
    title="CIFAR-10",
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    num_classes=10,
    label_bytes=1,
    pickled=("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1"),
    normalize=Normalize(divide_by=255.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
)
CIFAR100 = Version(
    title="CIFAR-100",
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    num_classes=100,
    label_bytes=2,
    pickled=("cifar-100-python", "cifar-100-python.tar.gz"),
    normalize=Normalize(divide_by=255.0, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
)


def cifar10(*, data_dir: str | Path | None = None, download: bool = False) -> Data:
    """CIFAR-10: 50,000 training and 10,000 test photographs in 10 classes.

    Inputs are float32 (3, 32, 32), red, green, blue: pixels divided by 255, normalised per channel by the
    training set's mean (0.4914, 0.4822, 0.4465) and standard deviation (0.2470, 0.2435, 0.2616). In memory
    they stay uint8.

    The folder `cifar-10-batches-bin`, or the file `cifar-10-binary.tar.gz` itself (slower to read), is looked
    for in `data_dir` and in the download cache; `data_dir` may also be that folder or file.

    Args:
        data_dir: where to look first, and to download to.
        download: fetch `cifar-10-binary.tar.gz` (170 MB) if it is nowhere, checked against its MD5.

    Raises:
        InputError: files missing, truncated, damaged, or in the pickled version; no network.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _cifar(CIFAR10, data_dir, download)


def cifar100(*, data_dir: str | Path | None = None, download: bool = False) -> Data:
    """CIFAR-100: 50,000 training and 10,000 test photographs in 100 classes (the fine labels).

    Inputs are float32 (3, 32, 32), red, green, blue: pixels divided by 255, normalised per channel by the
    training set's mean (0.5071, 0.4867, 0.4408) and standard deviation (0.2675, 0.2565, 0.2761). In memory
    they stay uint8.

    The folder `cifar-100-binary`, or the file `cifar-100-binary.tar.gz` itself (slower to read), is looked
    for in `data_dir` and in the download cache; `data_dir` may also be that folder or file.

    Args:
        data_dir: where to look first, and to download to.
        download: fetch `cifar-100-binary.tar.gz` (170 MB) if it is nowhere, checked against its MD5.

    Raises:
        InputError: files missing, truncated, damaged, or in the pickled version; no network.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _cifar(CIFAR100, data_dir, download)


def _cifar(version: Version, data_dir: str | Path | None, allow_download: bool) -> Data:
    folders = [*([] if data_dir is None else [Path(data_dir).expanduser()]), cache_folder()]
    place = _find(version, folders)
    if place is None and allow_download:
        place = folders[0] / version.archive
        download(f"{URL}/{version.archive}", place, version.md5)
    if place is None:
        raise InputError(_missing(version, folders))
    files = _read(version, place)
    train = _records(version, place, files, version.train, TRAIN_RECORDS)
    test = _records(version, place, files, (version.test,), TEST_RECORDS)
    return Data(train, test, _class_names(version, place, files), version.normalize.as_json())


def _find(version: Version, folders: list[Path]) -> Path | None:
    """The first folder of binary files, or archive of them."""
    for folder in folders:
        for place in (folder / version.folder, folder, folder / version.archive):
            if (place / version.test).is_file() or (place.is_file() and place.name == version.archive):
                return place
    return None


def _missing(version: Version, folders: list[Path]) -> str:
    for folder in folders:
        inside = [folder / name for name in version.pickled]
        pickled = [path for path in (folder, *inside) if path.name in version.pickled and path.exists()]
        if pickled:
            return (
                f"{pickled[0]} is the pickled version of {version.title}, which could run code when "
                f"opened; use the binary version, {version.archive} from {URL}, or download=True"
            )
    return (
        f"{version.title} ({version.folder} or {version.archive}) is in none of "
        f"{', '.join(map(str, folders))}; give data_dir, or let it be downloaded (download=True)"
    )


def _read(version: Version, place: Path) -> dict[str, bytes]:
    """The content of each file, from the folder or from the archive (nothing is extracted to disk)."""
    names = [*version.train, version.test, version.names]
    if place.is_dir():
        return {name: read_bytes(place / name) for name in names}
    wanted = {f"{version.folder}/{name}": name for name in names}
    files = {}
    try:
        with tarfile.open(place, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name in wanted and member.isfile() else None
                if content is not None:
                    files[wanted[member.name]] = content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{place} is truncated or damaged ({error}); fetch it again") from error
    absent = [name for name in names if name not in files]
    if absent:
        raise InputError(f"{place} lacks {', '.join(absent)}; it is not {version.archive}, fetch it again")
    return files


def _records(
    version: Version, place: Path, files: dict[str, bytes], names: tuple[str, ...], records: int
) -> ArrayDataset:
    length = version.label_bytes + PIXELS
    expected = records // len(names) * length
    for name in names:
        if len(files[name]) != expected:
            raise InputError(
                f"{place / name} has {len(files[name])} bytes instead of {expected}; it is truncated "
                "or damaged, fetch it again"
            )
    content = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, length)
    images = torch.from_numpy(content[:, version.label_bytes :].copy()).reshape(-1, 3, 32, 32)
    labels = torch.from_numpy(content[:, version.label_bytes - 1].copy())
    with blamed_on(place):
        return ArrayDataset(images, labels, num_classes=version.num_classes, transform=version.normalize)


def _class_names(version: Version, place: Path, files: dict[str, bytes]) -> tuple[str, ...]:
    names = tuple(files[version.names].decode("utf-8", "replace").split())
    if len(names) != version.num_classes:
        raise InputError(
            f"{place / version.names} names {len(names)} classes instead of {version.num_classes}; fetch it again"
        )
    return names
