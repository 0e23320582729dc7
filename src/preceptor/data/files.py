"""Finding, downloading and reading the files of a data set; nothing is ever unpickled."""

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preceptor.errors import InputError

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without an answer


def cache_folder() -> Path:
    """Where downloads go if no folder is named: `preceptor` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "preceptor"


def download(url: str, path: Path, md5: str) -> None:
    """Fetch `url` to `path`: either the whole file with the right checksum, or nothing.

    Raises:
        InputError: no network, a server that refuses, a full disk, or another checksum.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _stream(url, temporary)
        if found != md5:
            raise InputError(
                f"{url} gave a file with MD5 {found} instead of {md5}, so it was not kept; try again "
                f"later, or put the right file at {path}"
            )
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url} could not be downloaded ({reason}); check the network, or put the file at {path}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _stream(url: str, path: Path) -> str:
    """Copy a URL to a file, and return the MD5 of what arrived."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:
        while chunk := answer.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in `.gz`.

    Raises:
        InputError: it cannot be read, or is a damaged gzip file.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


@contextmanager
def blamed_on(what: Path | str) -> Iterator[None]:
    """Put a file's name, or a row of it, in front of an error sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
