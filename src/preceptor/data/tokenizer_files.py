"""A tokenizer as others read it: the files of a folder that AutoTokenizer of transformers loads."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FILES = ("tokenizer.json", "tokenizer_config.json")
"""What makes a folder one of a tokenizer."""
_NAME = "preceptor"  # in tokenizer_config.json: what the tokenizer is called in `Data.preprocessing`
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_OF_BYTES = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}

Save = Callable[[Path], None]
"""Writes a tokenizer's files into a folder that is there."""


def saving_bytes(names: Sequence[str]) -> Save:
    """Of our 256 bytes, named as in "<0x0A>", and the end of a document behind them: a BPE without merges, in which
    every letter falls back to its bytes.
    """
    *letters, end = names
    model = {"type": "BPE", "byte_fallback": True, "vocab": _numbered(letters), "merges": []}
    rest = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    return _saving_ours({"version": "1.0", **rest, "model": model, "decoder": _OF_BYTES}, end, "bytes")


def saving_trained(inner: Any, end: str, name: str) -> Save:
    """Of a byte-level BPE of ours, which has no end of a document yet."""
    return _saving_ours(json.loads(inner.to_str()) | {"decoder": _BYTE_LEVEL}, end, name)


def saving_file(inner: Any, end: int, name: str) -> Save:
    """Of a `tokenizer.json` that somebody has made, without its configuration."""
    return _saving(inner.to_str, {"eos_token": inner.id_to_token(end)}, name)


def saving_transformers(tokenizer: Any, name: str) -> Save:
    """Of one of transformers, with its template for chats in the configuration, so that these files are all."""

    def save(folder: Path) -> None:
        tokenizer.init_kwargs.pop("local_files_only", None)  # how it was found is no part of it
        tokenizer.init_kwargs[_NAME] = name
        tokenizer.save_pretrained(folder, save_jinja_files=False)

    return save


def name_in(tokenizer: Any) -> str | None:
    """What a tokenizer of transformers was called in the data of the run that has written it; None of others."""
    found = tokenizer.init_kwargs.get(_NAME)
    return found if isinstance(found, str) else None


def _saving_ours(content: Mapping[str, Any], end: str, name: str) -> Save:
    """With the end of a document as its last token; one that stands in a text is text."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {"id": len(content["model"]["vocab"]), "content": end, **plain, "special": True}
    text = json.dumps({**content, "added_tokens": [added]}, ensure_ascii=False)
    return _saving(lambda: text, {"eos_token": end, "split_special_tokens": True}, name)


def _saving(text: Callable[[], str], options: Mapping[str, Any], name: str) -> Save:
    usual = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}

    def save(folder: Path) -> None:
        config = json.dumps({**usual, **options, _NAME: name}, indent=2, ensure_ascii=False)
        for file, content in zip(FILES, (text(), config), strict=True):
            (folder / file).write_text(f"{content}\n", encoding="utf-8")

    return save


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}
