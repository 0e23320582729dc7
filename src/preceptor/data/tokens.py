"""Texts for language models: rows of tokens, each with the token that follows it as its label."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from preceptor.data.dataset import Data
from preceptor.data.documents import read_documents, split_documents
from preceptor.data.token_rows import TokenRows, joined, refuse_short, rows_of
from preceptor.data.tokenizers import tokenizer_of
from preceptor.errors import InputError
from preceptor.losses.tokens import IGNORED


class TokenDataset(Dataset[dict[str, Any]]):
    """Rows of tokens in memory. A token is a class, and a row of L tokens is a sample with a label for every position.

    Sample i is `{"input": {"input_ids": (L,), "position_ids": (L,)}, "label": (L,), "mask": (L,)}`; the mask is False
    where the label is -100 and nothing counts.

    Args:
        ids: int64 (N, L), what the model reads.
        positions: int64 (N, L), from 0 in each document and in each row.
        labels: int64 (N, L), the next token of the same document; -100 where there is none in the row.
        documents: int64 (N, L), the number of the document that a position belongs to; -1 in the padding.
        byte_counts: int64 (N, L), UTF-8 bytes of the label's text; 0 for special tokens and where there is no label.

    Raises:
        InputError: tensors of unlike shape, not (N, L), not int64, or without a row.
    """

    ignore_index: int = IGNORED
    """The label of what does not count (`preceptor.data.indexed.ignored_by`)."""

    def __init__(
        self, *, ids: Tensor, positions: Tensor, labels: Tensor, documents: Tensor, byte_counts: Tensor
    ) -> None:
        self.ids: Tensor = ids
        self.positions: Tensor = positions
        self.labels: Tensor = labels
        self.documents: Tensor = documents
        self.byte_counts: Tensor = byte_counts
        for name, each in vars(self).items():
            if each.shape != ids.shape or each.ndim != 2 or each.dtype != torch.int64 or not len(each):
                raise InputError(
                    f"{name} of the rows of tokens are {each.dtype} of shape {tuple(each.shape)}; give all five as "
                    "int64 of one shape (N, L)"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        inputs, labels = self.fetch(index)
        return {"input": inputs, "label": labels, "mask": labels != IGNORED}

    def fetch(self, index: int | Tensor | Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """The rows at `index`, in that order, as inputs by name and labels, each int64 (B, L)."""
        at = torch.as_tensor(index, dtype=torch.int64)
        return {"input_ids": self.ids[at], "position_ids": self.positions[at]}, self.labels[at]

    @cached_property
    def num_documents(self) -> int:
        """How many documents these rows are of."""
        return int((self.documents.unique() >= 0).sum())


def tokens(
    *,
    path: str | Path,
    tokenizer: str | Path | Mapping[str, Any] = "bytes",
    length: int = 256,
    packed: bool = True,
    text_column: str = "text",
    separator: str | None = None,
    document_bytes: int | None = None,
    heldout: float = 0.05,
    test: float = 0.05,
    heldout_path: str | Path | None = None,
    test_path: str | Path | None = None,
) -> Data:
    """The tokens of a file's documents: `.txt`, `.jsonl` or `.csv` (also with `.gz` after it), or `.parquet`.

    A row of a `.jsonl`, `.csv` or `.parquet` is a document; those of a `.txt` are told apart by `separator`. A `.txt`
    without one is cut into documents of about `document_bytes` bytes, at the next blank line or else line end, so that
    it can be split and scored by document. Empty documents are left out. Each document is ended by the tokenizer's
    end-of-text token, and no other special token is added; those that stand in a text are read as such.

    The first documents are for training, those that follow are held out, and the last are the test set, each part with
    its share of the bytes, in rows of its own. Held-out rows are the last ones of `data.train`, and the pool of the
    part `heldout`. A model sees of a document what stands in the same row, and does not predict the first token there.

    Classes are the vocabulary's tokens. `data.train.byte_counts` are the bytes of each label's text, for scores in bits
    per byte; text that a tokenizer drops, such as blanks, counts with the token after it.

    Args:
        path: the file; the other paths are of files of the same form.
        tokenizer: "bytes" (a byte is a token); what transformers loads: a folder, a name on the Hugging Face hub or
            "package:folder"; a `tokenizer.json`; or {"bpe": 1024}, a byte-level BPE of so many tokens that is trained
            on the training documents.
        length: of a row, in tokens; at least 2.
        packed: documents follow one another in a row; otherwise each begins a row, which is padded behind it.
        text_column: name of the texts' column.
        separator: between the documents of a `.txt`, such as "<|endoftext|>"; it belongs to none.
        document_bytes: of a `.txt` without separator; 4096 unless given.
        heldout: the share of the bytes that is held out, without `heldout_path`.
        test: the share of the test set, without `test_path`; 0 for none.
        heldout_path: a file of documents that are held out.
        test_path: a file of the test set's.

    Raises:
        InputError: a file that cannot be read, is empty, not UTF-8, or without the separator; a part without a
            document, or too few to train on; a length below 2; a tokenizer that cannot be loaded, is a slow one or has
            no end-of-text token; a missing package.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "lines.txt"
    >>> _ = file.write_text("to be|or|not|to be")
    >>> data = tokens(path=file, separator="|", length=4, heldout=0.3, test=0)
    >>> data.train[0]["input"]["input_ids"].tolist(), data.train[0]["label"].tolist()
    ([116, 111, 32, 98], [111, 32, 98, -100])
    >>> data.pools, data.num_classes, data.class_names[256]
    ({'heldout': tensor([3, 4])}, 257, '<eos>')
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise InputError(f"length is {length!r}; give a whole number of at least 2 tokens a row")

    def read(file: str | Path) -> list[bytes]:
        return read_documents(file, text_column=text_column, separator=separator, document_bytes=document_bytes)

    parts = _parts(read, path, {"heldout": (heldout, heldout_path), "test": (test, test_path)})
    made = tokenizer_of(tokenizer, parts["train"])
    rows: dict[str, TokenRows] = {}
    first = 0
    for name, documents in parts.items():
        encoded = made.encode(documents)
        if name == "train" and packed:
            refuse_short(encoded, length)
        rows[name] = rows_of(encoded, length, packed=packed, pad=made.eos, first=first)
        first += len(documents)
    kept = len(rows["train"].ids)
    train = TokenDataset(**joined([rows["train"], rows["heldout"]])._asdict())
    context: dict[str, Any] = {"tokenizer": made.name, "vocabulary": made.digest, "end": made.names[made.eos]}
    return Data(
        train,
        TokenDataset(**rows["test"]._asdict()) if "test" in rows else None,
        made.names,
        {"context": {**context, "length": length, "packed": packed}},
        {"heldout": torch.arange(kept, len(train))},
        tokenizer=made,
    )


def _parts(
    read: Callable[[str | Path], list[bytes]],
    path: str | Path,
    asked: Mapping[str, tuple[float, str | Path | None]],
) -> dict[str, list[bytes]]:
    """The documents of each part, in the order in which they are numbered."""
    shares = {name: share for name, (share, file) in asked.items() if file is None}
    if shares.get("heldout") == 0:
        raise InputError("heldout is 0; give the share of the text that is held out, such as 0.05, or heldout_path")
    parts = split_documents(read(path), shares) | {name: read(file) for name, (_, file) in asked.items() if file}
    return {name: parts[name] for name in ("train", *asked) if parts.get(name)}
