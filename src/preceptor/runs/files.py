"""Files that are either whole or absent: atomic writes, checked reads, nothing pickled."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from preceptor.errors import InputError

if sys.platform != "win32":
    import fcntl

_MARK = "preceptor-"  # in the names of what is being written, before the process's number
_PATIENCE = 8.0  # seconds: loaders of a killed process hold its lock until they find that it is gone


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    Works for a file or a new folder. A full disk becomes one sentence; what stood at `path` before stays.
    """
    temporary = path.with_name(f".{path.name}.{_MARK}{os.getpid()}")
    remove(temporary)  # of a process that had our number and was killed
    try:
        yield temporary
        for file in sorted(temporary.iterdir()) if temporary.is_dir() else [temporary]:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if temporary.is_dir():
            sync_folder(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        remove(temporary)
        raise not_saved(path, error) from error
    except BaseException:
        remove(temporary)
        raise


def not_saved(path: Path, error: Exception) -> InputError:
    """The sentence for a file that cannot be written: a full disk, say, or a folder that is read-only."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(
        f"could not save '{path}': {reason}; what was saved before is untouched, so make room or give "
        "another folder, and run the same command again"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_saved(path, error) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`; the system lets go when this process ends, however it ends.

    The empty file ``.lock`` stays: were it removed, two processes could hold locks on two files of that name. Somebody
    else may remove it, so the folder itself is locked too, where the system can.

    Raises:
        InputError: another process holds the folder, and still does after some seconds.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / ".lock").acquire(timeout=_PATIENCE))
            _lock_itself(folder, held)
        except Timeout:
            raise InputError(
                f"another process is at work in '{folder}'; wait until it has ended, or give another folder",
                argument="folder",
            ) from None
        except OSError as error:
            raise not_saved(folder / ".lock", error) from error
        yield


def _lock_itself(folder: Path, held: contextlib.ExitStack) -> None:
    """Lock the folder, which cannot be removed while there is something in it, until `held` lets go.

    Systems that cannot lock a folder (Windows, some network drives) have the file alone.

    Raises:
        Timeout: somebody else has it, and still does after some seconds.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Timeout(str(folder)) from None
            time.sleep(0.05)
        except OSError:
            return
        else:
            return


def remove_left_overs(folder: Path) -> None:
    """Remove what a killed process was just writing into `folder`."""
    for left_over in folder.glob(f".*.{_MARK}[0-9]*"):
        remove(left_over)


def refuse_foreign(path: Path, what: str, *marks: bytes) -> None:
    """Refuse to write over a file that is not one of ours.

    Args:
        path: to be written.
        what: a word for ours.
        marks: of which each of ours holds one in its first 1,000 bytes.

    Raises:
        InputError: there is a folder or a file without a mark.
    """
    if path.is_dir() or not path.name:
        raise InputError(f"the {what} '{path}' is a folder; give the name of a file in it")
    if path.exists():
        with open(path, "rb") as file:
            start = file.read(1000)
        if not any(mark in start for mark in marks):
            raise InputError(f"'{path}' is there and is no {what} of Preceptor's; give another name, or remove it")


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = 1) -> None:
    """Write JSON atomically; numbers that are not finite become null."""
    write_text(path, to_json(value, indent=indent))


def to_json(value: object, *, indent: int | None = None) -> str:
    """`value` as JSON, ending in a newline; numbers that are not finite become null."""
    return json.dumps(finite(value), indent=indent, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON does not know (the NLL of a label given probability
    0).
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from None
    except ValueError:
        raise InputError(f"'{path}' is not valid JSON; it is damaged or was not written by Preceptor") from None
    if not isinstance(value, dict):
        raise InputError(f"'{path}' holds a {type(value).__name__}, not a JSON object")
    return value


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Save tensors as safetensors; `metadata` (JSON values) goes into the header under ``preceptor``."""
    # safetensors refuses tensors that share memory (tied weights): each is stored whole.
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode
    # One entry: of several, safetensors draws the order anew in every process, and equal runs would have unequal files.
    save_file(flat, path, {"preceptor": json.dumps(metadata or {})})
    path.chmod(mode)  # safetensors gives its files to their owner alone, whatever the umask


def load_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the metadata in a safetensors file.

    Raises:
        InputError: the file is missing, truncated, or something else, such as a pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there are no weights at '{path}'; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("preceptor", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        if _starts_like_a_pickle(path):
            raise InputError(
                f"'{path}' is a pickle, which can run code when it is read; "
                "save the weights with safetensors.torch.save_file and give that file"
            ) from None
        raise InputError(
            f"cannot read the weights '{path}': the file is truncated, damaged or not safetensors ({error})"
        ) from None


def _starts_like_a_pickle(path: Path) -> bool:
    """A bare pickle (protocol 2 or later), or torch's zip archive of one."""
    with open(path, "rb") as file:
        start = file.read(3)
    # 0 is no opcode of a pickle, but the third byte of most safetensors, which begin with a number of 8 bytes.
    return start[:2] == b"PK" or (len(start) == 3 and start[0] == 0x80 and 2 <= start[1] <= 5 and start[2] != 0)
