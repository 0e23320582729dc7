"""Causal language models of transformers: one from a folder, or a fresh one of an architecture.

A token is a class, and a row of tokens has logits of the next one at every position. transformers is optional
(`pip install 'preceptor[text]'`).
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean
from preceptor.losses.linear import Head
from preceptor.models.causal import head_of, hidden_and_head, inner_of, uncached
from preceptor.models.context import keeps_apart, refuse_mixed
from preceptor.models.hub import loaded, need_transformers, quiet, refuse_missing

_NEEDS = "config.json and model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_DROPOUTS = ("attention_dropout", "attn_pdrop", "dropout", "embd_pdrop", "embed_dropout", "hidden_dropout")
_DROPOUTS += ("resid_dropout", "resid_pdrop")
_READ = ("head_dim",)  # by models whose configurations do not name it
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def causal_lm(
    *,
    num_classes: int,
    input_shape: Sequence[int],
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    dropout: float | None = None,
) -> "CausalLM":
    """A causal language model: that of a folder, a fresh one of any architecture of transformers, or a small Llama.

    Args:
        num_classes: tokens of the vocabulary. Logits are (B, L, num_classes), of the next token at each position; rows
            of a wider head are padding and are cut off.
        input_shape: (), as inputs go by name: ``input_ids`` and ``position_ids``, int64 (B, L), positions counted from
            0 in each document.
        pretrained: a folder (config.json, model.safetensors), a name on the Hugging Face hub, or "package:folder" for
            a folder inside an installed package, which is not imported.
        config: instead, an architecture and its sizes, such as ``{model_type: gpt2, n_embd: 128, n_layer: 4}``; its
            vocab_size is `num_classes`.
        width, depth, heads: with neither, of a Llama whose head is tied to its embedding: 128, 4 and 4 by default.
        dropout: in place of every dropout that the configuration has; by default as it stands there.

    Raises:
        InputError: transformers is not installed; nothing can be loaded, or no such model be made; a head of fewer
            rows than `num_classes`; a model that looks at later tokens.

    >>> model = causal_lm(num_classes=17, input_shape=(), width=16, depth=1, heads=2)
    >>> model(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 17])
    """
    if tuple(input_shape):
        raise InputError(
            f"the model 'causal_lm' reads rows of tokens by name (input_ids), but inputs have shape "
            f"{tuple(input_shape)}; choose a model for these inputs"
        )
    sizes = {name: size for name, size in (("width", width), ("depth", depth), ("heads", heads)) if size is not None}
    said = [name for name, value in (("pretrained", pretrained), ("config", config)) if value is not None]
    if len([*said, *sizes]) > 1 and said:
        both = [*said, *sizes]
        raise InputError(f"the model 'causal_lm' is given both {both[0]} and {both[1]}; give one of the two")
    if pretrained is not None:
        return _of_folder(pretrained, num_classes, dropout)
    return _fresh(_llama(**sizes) if config is None else config, num_classes, dropout)


def causal_lm_of(folder: Path) -> "CausalLM":
    """A causal language model that transformers has saved to a folder, with as many classes as its tokenizer has
    tokens, or its head rows.

    Raises:
        InputError: as `causal_lm`.
    """
    return _of_folder(str(folder), None, None)


class CausalLM(nn.Module):
    """`causal_lm`; `model` holds its weights.

    Args:
        model: a causal language model of transformers.
        num_classes: of its head's rows so many are tokens.
        tokenizer: that was beside it, if any was.
        source: where its weights are from; empty if they were drawn.

    Raises:
        InputError: a narrower head, or a model that looks at later tokens.
    """

    def __init__(self, model: Any, num_classes: int, tokenizer: Any = None, source: str = "") -> None:
        super().__init__()
        self.model: nn.Module = model
        self.num_classes: int = num_classes
        self.tokenizer: Any = tokenizer
        self.source: str = source
        self._refuse_narrow()
        self._keeps_apart = keeps_apart(model, self._said, num_classes, self.longest)

    @property
    def config(self) -> Any:
        """Its configuration."""
        return self.model.config

    @property
    def head_size(self) -> int:
        """Rows of its head: tokens, and padding behind them."""
        return len(self.get_output_embeddings().weight)

    @property
    def longest(self) -> int | None:
        """The longest row that it reads; None for any."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def get_output_embeddings(self) -> Any:
        """Its head, as transformers calls it."""
        return self.model.get_output_embeddings()  # type: ignore[operator]

    @property
    def head(self) -> Head:
        """What makes logits of its last hidden states, as `preceptor.losses.linear` takes it; of its tokens alone.

        Raises:
            InputError: as `preceptor.models.causal.head_of`.
        """
        head = head_of(inner_of(self.model))
        if head.size == self.num_classes:
            return head
        bias = None if head.bias is None else head.bias[: self.num_classes]
        return Head(head.weight[: self.num_classes], bias, head.scale, head.softcap)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, *, states: bool = False) -> Tensor:
        """Logits (B, L, num_classes) of the next token, of token numbers and positions int64 (B, L).

        Args:
            states: instead the hidden states (B, L, H) that its `head` makes them of.

        Raises:
            InputError: a row that is too long; positions that restart, where the model does not keep documents apart.
        """
        if states:
            return self.hidden_and_head(input_ids, position_ids)[0]
        self._check(input_ids, position_ids)
        return self._said(input_ids, position_ids)

    def hidden_and_head(self, input_ids: Tensor, position_ids: Tensor | None = None) -> tuple[Tensor, Head]:
        """What its head is given, (B, L, H), and the head of the tokens, for the losses of `preceptor.losses.linear`.

        Raises:
            InputError: as `forward`; as `preceptor.integrations.transformers.hidden_and_head`.
        """
        self._check(input_ids, position_ids)
        hidden, _ = hidden_and_head(self.model, input_ids=input_ids, **self._placed(position_ids))
        return hidden, self.head

    def with_classes(self, num_classes: int) -> "CausalLM":
        """The same model, with as many of its head's rows for tokens.

        Raises:
            InputError: it has fewer.
        """
        changed = copy.copy(self)
        changed.num_classes = num_classes
        changed._refuse_narrow()
        return changed

    def save_pretrained(self, folder: Path | str) -> None:
        """Write model and tokenizer so that transformers loads them."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def _said(self, input_ids: Tensor, position_ids: Tensor | None) -> Tensor:
        made = self.model(input_ids=input_ids, **self._placed(position_ids), **uncached(self.model))
        return made.logits[..., : self.num_classes]

    def _placed(self, position_ids: Tensor | None) -> dict[str, Tensor]:
        return {} if position_ids is None or not _takes(self.model) else {"position_ids": position_ids}

    def _check(self, input_ids: Tensor, position_ids: Tensor | None) -> None:
        longest = self.longest
        if longest is not None and input_ids.shape[-1] > longest:
            raise InputError(
                f"rows have {input_ids.shape[-1]} tokens, but the language model reads {longest} (its "
                f"max_position_embeddings); give data.length={longest}, or a model that reads more"
            )
        if not self._keeps_apart and position_ids is not None:
            refuse_mixed(self.model, position_ids)

    def _refuse_narrow(self) -> None:
        if self.head_size < self.num_classes:
            raise InputError(
                f"the head of the language model{f' {self.source!r}' if self.source else ''} has {self.head_size} rows "
                f"and the data {self.num_classes} tokens; give data with the tokenizer that the model was trained with"
            )


def _takes(model: nn.Module) -> bool:
    """Whether it can be told where each token stands."""
    return "position_ids" in inspect.signature(model.forward).parameters


# -- weights from a folder ---------------------------------------------------------------------------------------------


def _of_folder(pretrained: str, num_classes: int | None, dropout: float | None) -> CausalLM:
    def read(place: str, **safe: bool) -> tuple[Any, Any, Any]:
        import transformers  # pyright: ignore[reportMissingImports]

        config = transformers.AutoConfig.from_pretrained(place, **safe)
        _set_dropout(config, dropout, pretrained)
        options = safe | {"use_safetensors": True, "output_loading_info": True}
        auto: Any = transformers.AutoModelForCausalLM
        model, report = auto.from_pretrained(place, config=config, dtype=torch.float32, **options)
        return model, report, _tokenizer(place, config, **safe)

    model, report, tokenizer = loaded(pretrained, read, what="causal language model", needs=_NEEDS, model="causal_lm")
    refuse_missing(report["missing_keys"], pretrained, "causal language model")
    rows = len(model.get_output_embeddings().weight)
    known = rows if tokenizer is None else min(rows, max(tokenizer.get_vocab().values()) + 1)
    return CausalLM(model, known if num_classes is None else num_classes, tokenizer, pretrained).eval()


def _tokenizer(place: str, config: Any, **safe: bool) -> Any:
    """The tokenizer beside a model; None where there is none."""
    import transformers  # pyright: ignore[reportMissingImports]

    if Path(place).is_dir() and not any((Path(place) / name).is_file() for name in _TOKENIZERS):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(place, config=config, **safe)
    except OSError:
        if Path(place).is_dir():
            raise
        return None


# -- fresh weights -----------------------------------------------------------------------------------------------------


def _llama(width: int = 128, depth: int = 4, heads: int = 4) -> dict[str, Any]:
    """The configuration of a small Llama; its gated layers have as many weights as plain ones four times as wide."""
    if min(width, depth, heads) < 1 or width % (2 * heads):
        raise InputError(
            f"the model 'causal_lm' has width {width}, depth {depth} and {heads} heads; give a width that is a "
            "multiple of twice the heads, and a depth above 0"
        )
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": -(-8 * width // 24) * 8,
        "max_position_embeddings": 2**17,
        "tie_word_embeddings": True,
    }


def _fresh(said: Mapping[str, Any], num_classes: int, dropout: float | None) -> CausalLM:
    """A model of a configuration, its weights drawn from torch's global generator."""
    need_transformers("causal_lm")
    import transformers  # pyright: ignore[reportMissingImports]

    given = dict(said)
    kind = given.pop("model_type", None)
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        raise InputError(f"the model 'causal_lm' has config.model_type {kind!r}; {_nearest(kind, known)}")
    if given.setdefault("vocab_size", num_classes) != num_classes:
        raise InputError(
            f"the model 'causal_lm' has config.vocab_size {given['vocab_size']}, and the data {num_classes} tokens; "
            "leave config.vocab_size out"
        )
    try:
        with quiet():
            _refuse_unknown(given, transformers.AutoConfig.for_model(kind))
            # Those of an architecture are the numbers of another tokenizer's tokens; padding would not be learned.
            config = transformers.AutoConfig.for_model(kind, **{**dict.fromkeys(_SPECIAL), **given})
            _set_dropout(config, dropout, str(kind))
            return CausalLM(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32), num_classes)
    except InputError:
        raise
    except Exception as error:  # whatever an architecture makes of sizes that cannot be
        raise InputError(
            f"the model 'causal_lm' cannot be made of config {dict(said)} ({' '.join(str(error).split())}); give sizes "
            "that fit one another"
        ) from error


def _nearest(kind: Any, known: Mapping[str, Any]) -> str:
    hint = did_you_mean(str(kind or ""), known)
    return hint if "?" in hint else "give one of transformers' causal language models, such as llama, qwen3 or gpt2"


def _refuse_unknown(given: Mapping[str, Any], default: Any) -> None:
    """Refuse a key that the configuration would take, and no model read."""
    for key in given:
        if not hasattr(default, key) and key not in _READ:
            known = [*default.to_dict(), *default.attribute_map]
            raise InputError(f"unknown key 'config.{key}' of the model 'causal_lm'; {did_you_mean(key, known)}")


def _set_dropout(config: Any, dropout: float | None, name: str) -> None:
    if dropout is None:
        return
    if not 0 <= dropout < 1:
        raise InputError(f"the dropout of the model 'causal_lm' is {dropout}; give at least 0 and less than 1")
    found = [key for key in _DROPOUTS if hasattr(config, key)]
    if not found:
        raise InputError(f"the configuration of '{name}' has no dropout; leave dropout out")
    for key in found:
        setattr(config, key, dropout)
