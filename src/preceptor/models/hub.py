"""Models that transformers loads, from a folder, an installed package or the Hugging Face hub.

transformers is optional (`pip install 'preceptor[text]'`). Weights are read from safetensors only, and no code that
comes with a model is run.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from preceptor.errors import InputError
from preceptor.hub import loaded, need_transformers, place_of, quiet

__all__ = [
    "architectures",
    "has_tokens",
    "is_pretrained",
    "loaded",
    "need_transformers",
    "place_of",
    "quiet",
    "refuse_missing",
    "save_pretrained",
]


def refuse_missing(names: Iterable[str], pretrained: str, what: str) -> None:
    """Refuse weights that were not in the file, and were drawn.

    Raises:
        InputError: naming the first.
    """
    missing = sorted(names)
    if missing:
        raise InputError(
            f"the {what} '{pretrained}' lacks {len(missing)} of its weights (the first: '{missing[0]}'); give one "
            "that was saved whole"
        )


def architectures(folder: Path) -> list[str]:
    """What transformers calls the model that it has saved to a folder.

    Raises:
        InputError: its configuration cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{folder / 'config.json'}' cannot be read ({error}); give a folder of transformers"
        ) from None
    return [str(each) for each in config.get("architectures") or []] if isinstance(config, Mapping) else []


def is_pretrained(model: nn.Module) -> bool:
    """Whether it is one of transformers' models, or like them can be written by `save_pretrained`."""
    return callable(getattr(model, "save_pretrained", None))


def save_pretrained(
    model: Any,
    folder: Path,
    class_names: Sequence[str],
    *,
    save_tokenizer: Callable[[Path], object] | None = None,
    end: int | None = None,
) -> None:
    """Write a model as transformers loads it, with the names of its classes in its configuration.

    Those of a language model are its tokens, which a tokenizer knows.

    Args:
        save_tokenizer: writes that of the data into the folder, in place of one that the model has.
        end: the token that ends a document, at which the model ends what it writes, unless it knows another.
    """
    config = getattr(model, "config", None)
    if hasattr(config, "id2label") and not has_tokens(model):
        config.id2label = dict(enumerate(class_names))  # type: ignore[union-attr]
        config.label2id = {name: number for number, name in enumerate(class_names)}  # type: ignore[union-attr]
    if end is not None and has_tokens(model):
        _end_at(model, end)
    with quiet():
        model.save_pretrained(folder)
        if save_tokenizer is not None and has_tokens(model):
            save_tokenizer(folder)


def _end_at(model: Any, end: int) -> None:
    """Tell a language model, or the one that it holds, which token ends a text, if nobody has."""
    inner = model if hasattr(model, "generation_config") else getattr(model, "model", None)
    configs: list[Any] = [getattr(inner, name, None) for name in ("config", "generation_config")]
    for config in configs:
        if getattr(config, "eos_token_id", end) is None:
            config.eos_token_id = end


def has_tokens(model: Any) -> bool:
    """Whether it is a language model of transformers, or holds one as its own."""
    return getattr(model, "get_output_embeddings", lambda: None)() is not None
