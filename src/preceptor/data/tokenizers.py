"""What makes tokens of documents: their bytes, a tokenizer that somebody has made, or one that is trained on them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preceptor.data.tokenizer_files import Save, name_in, saving_bytes, saving_file, saving_trained, saving_transformers
from preceptor.errors import InputError
from preceptor.hub import loaded
from preceptor.notices import note

EOS = "<eos>"
"""The last token of our own vocabularies, which ends a document."""

_BPE = "bpe "  # what our own are called, before their size
_USUAL = (EOS, "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "[EOS]")  # in a file that does not say which
_MOST = 2**24  # tokens; the largest vocabularies have some 2**18
_AT_ONCE = 256  # documents that are encoded in one call


class Encoded(NamedTuple):
    """The tokens of documents, one document after the other, each ended by the end of a document."""

    ids: np.ndarray
    """int64 (n,)."""
    byte_counts: np.ndarray
    """int64 (n,): UTF-8 bytes of each token's text; 0 for special tokens."""
    lengths: np.ndarray
    """int64 (documents,): how many of the tokens are each document's."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and how documents become tokens of it.

    Args:
        name: what it is called in `Data.preprocessing`.
        names: of the tokens in order of their ids; unique, not empty, printable.
        eos: the token that ends a document.
        digest: of the map from token to id (and of our own merges), SHA-256.
        encode: of UTF-8 documents.
        save: writes it into a folder, as AutoTokenizer of transformers reads it; there a text has the same tokens.
    """

    name: str
    names: tuple[str, ...]
    eos: int
    digest: str
    encode: Callable[[Sequence[bytes]], Encoded]
    save: Save


def tokenizer_of(given: str | Path | Mapping[str, Any], documents: Sequence[bytes]) -> Tokenizer:
    """The tokenizer that an option means.

    Args:
        given: "bytes"; a folder, a name on the Hugging Face hub, "package:folder" or a `tokenizer.json`; or
            {"bpe": vocabulary size}.
        documents: that a vocabulary is trained on.

    Raises:
        InputError: something else; tokenizers or transformers is missing; a tokenizer that cannot be loaded, is not a
            fast one, has no end of a document, or too many tokens.

    >>> bytewise = tokenizer_of("bytes", [])
    >>> bytewise.encode([b"a!"]).ids.tolist(), bytewise.names[10], len(bytewise.names)
    ([97, 33, 256], '<0x0A>', 257)
    """
    if isinstance(given, Mapping):
        if set(given) != {"bpe"}:
            raise InputError(f"the tokenizer is {dict(given)}; give {{bpe: 1024}}, bytes, or one of transformers")
        return _trained(given["bpe"], documents)
    if not isinstance(given, str | Path) or not str(given):
        raise InputError(f"the tokenizer is {given!r}; give bytes, {{bpe: 1024}}, or one of transformers")
    if str(given) == "bytes":
        names = (*(f"<0x{byte:02X}>" for byte in range(256)), EOS)
        digest = _digest({name: number for number, name in enumerate(names)})
        return Tokenizer("bytes", names, 256, digest, _bytes, saving_bytes(names))
    return _found(str(given))


def _bytes(documents: Sequence[bytes]) -> Encoded:
    lengths = np.array([len(document) + 1 for document in documents], np.int64)
    ids = np.full(lengths.sum(), 256, np.int64)
    is_text = np.ones(len(ids), bool)
    is_text[np.cumsum(lengths) - 1] = False
    ids[is_text] = np.frombuffer(b"".join(documents), np.uint8)
    return Encoded(ids, is_text.astype(np.int64), lengths)


def _digest(vocabulary: Mapping[str, int], *more: Any) -> str:
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps([ordered, *more]).encode()).hexdigest()


# -- the library tokenizers --------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import tokenizers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("a tokenizer other than bytes needs transformers; run pip install 'preceptor[text]'") from None
    return tokenizers


def _trained(size: Any, documents: Sequence[bytes]) -> Tokenizer:
    """A byte-level BPE of these documents: bytes, merges and `<eos>`; it depends on them alone."""
    if isinstance(size, bool) or not isinstance(size, int) or not 257 <= size <= _MOST:
        raise InputError(f"bpe is {size!r}; give a vocabulary of 257 to {_MOST} tokens")
    library = _library()
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator((document.decode() for document in documents), trainer)
    vocabulary: dict[str, int] = inner.get_vocab()
    if len(vocabulary) < size - 1:
        note(f"the training documents have but {len(vocabulary) + 1} of the {size} tokens of the vocabulary asked for")
    eos = len(vocabulary)
    whole, name = vocabulary | {EOS: eos}, f"{_BPE}{size}"
    digest = _digest(whole, _merges(inner))
    return Tokenizer(name, names_of(whole), eos, digest, _encoder(inner, eos), saving_trained(inner, EOS, name))


def _merges(inner: Any) -> list[Any]:
    return json.loads(inner.to_str())["model"].get("merges", [])


def _found(given: str) -> Tokenizer:
    """A tokenizer that somebody has made, or that a run of ours has written."""
    library, path = _library(), Path(given).expanduser()
    name = path.resolve().name if path.exists() else given  # where a folder lies makes no other tokenizer of it
    found: Any = None
    if path.is_file():
        try:
            inner = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing else
            raise InputError(f"{path}: no tokenizer can be read ({error}); give a tokenizer.json") from None
        eos = next((number for token in _USUAL if (number := inner.token_to_id(token)) is not None), None)
        remedy = "give its folder, whose tokenizer_config.json says which it is"
    else:
        found = _of_transformers(given)
        inner, eos, name = found.backend_tokenizer, found.eos_token_id, name_in(found) or name
        remedy = "set its eos_token and save it again"
    if eos is None:
        raise InputError(f"the tokenizer '{given}' has no token that ends a document (eos); {remedy}")
    vocabulary: dict[str, int] = inner.get_vocab(with_added_tokens=True)
    inner.no_padding()
    inner.no_truncation()
    digest = _digest(vocabulary, _merges(inner)) if name.startswith(_BPE) else _digest(vocabulary)
    save = saving_file(inner, eos, name) if found is None else saving_transformers(found, name)
    return Tokenizer(name, names_of(vocabulary), eos, digest, _encoder(inner, eos), save)


def _of_transformers(given: str) -> Any:
    def read(place: str, **safe: Any) -> Any:
        from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]

        return AutoTokenizer.from_pretrained(place, **safe)

    found: Any = loaded(given, read, what="tokenizer", needs="tokenizer.json", model="tokens")
    if not getattr(found, "is_fast", False):
        raise InputError(
            f"the tokenizer '{given}' is a slow one, which does not tell where in the text its tokens are; give one "
            "with a tokenizer.json"
        )
    return found


def names_of(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """The tokens in order of their ids, printable, and `<unused N>` where no token has an id."""
    largest = max(vocabulary.values())
    if largest >= _MOST:
        raise InputError(
            f"the tokenizer's largest token id is {largest}, which would make as many classes; give one with at most "
            f"{_MOST} tokens"
        )
    names = [f"<unused {number}>" for number in range(largest + 1)]
    for token, number in vocabulary.items():
        if token:
            names[number] = token if token.isprintable() else token.encode("unicode_escape").decode()
    taken: set[str] = set()
    for number, name in enumerate(names):
        while name in taken:
            name = f"{name} ({number})"
        taken.add(name)
        names[number] = name
    return tuple(names)


def _encoder(inner: Any, eos: int) -> Callable[[Sequence[bytes]], Encoded]:
    special = [number for number, token in inner.get_added_tokens_decoder().items() if token.special]

    def one_by_one(documents: Sequence[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(documents), _AT_ONCE):
            texts = [document.decode() for document in documents[start : start + _AT_ONCE]]
            for text, found in zip(texts, inner.encode_batch(texts, add_special_tokens=False), strict=True):
                ids = np.array([*found.ids, eos], np.int64)
                counts = np.r_[_byte_counts(text, [end for _, end in found.offsets]), 0]
                yield ids, np.where(np.isin(ids, special), 0, counts)

    def encode(documents: Sequence[bytes]) -> Encoded:
        ids, counts = zip(*one_by_one(documents), strict=True)
        return Encoded(np.concatenate(ids), np.concatenate(counts), np.array([len(each) for each in ids], np.int64))

    return encode


def _byte_counts(text: str, ends: Sequence[int]) -> np.ndarray:
    """The bytes of each token, by the characters at which tokens end, int64; together they are those of the text.

    What lies between two tokens, such as blanks that a tokenizer drops, counts with the one that follows, at the end
    with the last one; of a character that several share, the first has all bytes.
    """
    if not ends:
        return np.zeros(0, np.int64)
    code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (code > 0x7F).astype(np.int64) + (code > 0x7FF) + (code > 0xFFFF)
    before = np.r_[0, np.cumsum(widths)]
    reached = np.maximum.accumulate(before[np.asarray(ends)])
    reached[-1] = before[-1]
    return np.diff(reached, prepend=0)
