"""Documents of files that others have written: what language models read, told apart and cut into parts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.data.files import blamed_on, read_bytes
from preceptor.data.rows import cell, read_rows
from preceptor.errors import InputError
from preceptor.notices import note

DOCUMENT_BYTES = 4096
"""About how long the documents of a text are that has no separator."""

_BLANK_LINES, _LINE_END = re.compile(rb"\n(?:\r?\n)+"), re.compile(rb"\n")


def read_documents(
    path: str | Path, *, text_column: str = "text", separator: str | None = None, document_bytes: int | None = None
) -> list[bytes]:
    """The documents of a file in their order, each as UTF-8; those that are empty are left out, which is noted.

    Args:
        path: `.txt`, `.jsonl` or `.csv` (also with `.gz` after it), or `.parquet`.
        text_column: of all but `.txt`, one document a row.
        separator: what stands between the documents of a `.txt`, and belongs to none.
        document_bytes: of a `.txt` without a separator (`cut`); 4096 unless given.

    Raises:
        InputError: a file that cannot be read, of another kind, without any text, not UTF-8 or with a NUL in it; an
            option that does not go with it, or a separator that is not in it.
    """
    path = Path(path).expanduser()
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
    if kind not in (".txt", ".jsonl", ".csv", ".parquet"):
        known = ".txt, .jsonl, .csv (also with .gz after it) or .parquet"
        raise InputError(f"{path}: the name ends in '{kind}'; give a file that ends in {known}")
    if kind == ".txt":
        found = _of_text(path, separator, document_bytes)
    else:
        for name, value in (("separator", separator), ("document_bytes", document_bytes)):
            if value is not None:
                raise InputError(f"{path}: {name} is for .txt files, and this one has a document a row; leave it out")
        found = _of_rows(path, text_column)
    kept = [document for document in found if document.strip()]
    if not kept:
        raise InputError(f"{path}: there is no text in it; give a file with at least one document")
    if len(kept) < len(found):
        note(f"{path}: {len(found) - len(kept)} of {len(found)} documents are empty and left out")
    return kept


def _of_text(path: Path, separator: str | None, document_bytes: int | None) -> list[bytes]:
    content = read_bytes(path)
    with blamed_on(path):
        content = _checked(content.removeprefix(b"\xef\xbb\xbf"))
        if not content.strip():
            return []
        if separator is not None:
            if document_bytes is not None:
                raise InputError("both separator and document_bytes are given; leave one of the two out")
            return _separated(content, separator)
    if document_bytes is not None:
        return cut(content, document_bytes)
    found = cut(content, DOCUMENT_BYTES)
    note(
        f"{path}: without separator the text is cut into {len(found)} documents of about {DOCUMENT_BYTES} bytes, at "
        "the next blank line or line end"
    )
    return found


def _checked(content: bytes) -> bytes:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(f"byte {nul} is NUL, as in a binary file; give a text, without it")
    return content


def _separated(content: bytes, separator: str) -> list[bytes]:
    if not isinstance(separator, str) or not separator:
        raise InputError(f"separator is {separator!r}; give the text that stands between two documents")
    found = content.split(separator.encode())
    if len(found) == 1:
        raise InputError(
            f"the separator {separator!r} is not in it; give the text that stands between two documents, or none"
        )
    return found if found[-1].strip() else found[:-1]  # the last one may be ended, too


def cut(content: bytes, size: int) -> list[bytes]:
    """A text as documents that, end to end, are the text again.

    Each ends with the first blank line after `size` bytes; where there is none in as many bytes again, with the first
    line end; and where there is none of these either, between two characters.

    >>> cut(b"one\\n\\ntwo\\nthree\\n\\nfour", 8)
    [b'one\\n\\ntwo\\nthree\\n\\n', b'four']
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"document_bytes is {size!r}; give a whole number of at least 1")
    found, start = [], 0
    while start < len(content):
        end = _end(content, start + size, start + 2 * size)
        found.append(content[start:end])
        start = end
    return found


def _end(content: bytes, first: int, last: int) -> int:
    if first >= len(content):
        return len(content)
    for wanted in (_BLANK_LINES, _LINE_END):
        if match := wanted.search(content, first, last):
            return match.end()
    while last < len(content) and content[last] & 0xC0 == 0x80:  # within a character
        last += 1
    return min(last, len(content))


def _of_rows(path: Path, text_column: str) -> list[bytes]:
    rows, found = read_rows(path, {}), []
    with blamed_on(path):
        for number, row in rows:
            with blamed_on(f"row {number}"):
                found.append(_encoded(cell(row, text_column)))
    return found


def _encoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"the text is a {type(value).__name__}, not text; leave such rows out")
    if "\0" in value:
        raise InputError("the text holds the character U+0000; remove it")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text holds {value[error.start]!r}, half a character; remove it") from None


# -- parts -------------------------------------------------------------------------------------------------------------


def split_documents(documents: Sequence[bytes], shares: dict[str, float]) -> dict[str, list[bytes]]:
    """Documents as parts that follow one another: `train`, and then those of `shares` in their order.

    A document goes where its middle is, so that each part has its share of the bytes to within about one document; but
    where there are enough for all, each part that has a share has a document.

    Args:
        documents: in their order.
        shares: of the bytes, of `heldout` and `test`.

    Raises:
        InputError: a share that is none, or a part without a document.

    >>> parts = split_documents([b"x" * 10] * 10, {"heldout": 0.2, "test": 0.1})
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 7, 'heldout': 2, 'test': 1}
    """
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise InputError(f"{name} is {share!r}; give the part of the text that it takes, at least 0 and below 1")
    given = ", ".join(f"{name}={share:g}" for name, share in shares.items())
    if sum(shares.values()) >= 1:
        raise InputError(f"{given} leave nothing to train on; give less than 1 together")
    sizes = np.array([len(document) for document in documents])
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    bounds = 1 - np.cumsum([0.0, *reversed(shares.values())])[::-1]  # where each of the shares begins, and the end
    places = [0, *(int(place) for place in np.searchsorted(middles, bounds[:-1])), len(documents)]
    names = ["train", *shares]
    asked = [share > 0 for share in shares.values()]
    if len(documents) > sum(asked):
        for place in reversed(range(1, len(names))):
            places[place] = min(places[place], places[place + 1] - asked[place - 1])
    parts = {name: list(documents[a:b]) for name, a, b in zip(names, places[:-1], places[1:], strict=True)}
    for name, part in parts.items():
        if not part and (name == "train" or shares[name] > 0):
            remedy = "smaller shares" if name == "train" else f"a larger share, or {name}_path"
            raise InputError(
                f"{given} of {len(documents)} documents leave none for {name}; give {remedy}, or more documents"
            )
    return parts
