"""Text teachers: an encoder that transformers loads, by name or from a folder, with a head on its pooled output.

transformers is optional (`pip install 'preceptor[text]'`). Encoders are read from safetensors only, and no code that
comes with one is run.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.models.hub import loaded, place_of, refuse_missing
from preceptor.models.texts import head, require_bytes, text_length, to_texts

ABSENT = -1
_TOKENS = 1024  # a batch: few enough for a processor's cache, enough for its matrix products
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Report: TypeAlias = Callable[[int, int], object]
Precision: TypeAlias = Literal["fp32", "bf16"]


def text_encoder(
    *,
    num_classes: int,
    input_shape: Sequence[int],
    pretrained: str,
    frozen: bool = True,
    hidden: Sequence[int] = (),
    pooling: Literal["mean", "cls"] = "mean",
    max_tokens: int = 128,
    precision: Precision = "fp32",
) -> nn.Module:
    """A pretrained encoder and a head on its pooled output; frozen, or trained with the head.

    A frozen encoder stays in eval mode and gets no gradient. It is no part of the state dict, which holds the head and
    a fingerprint of encoder and tokenizer: weights are refused where `pretrained` has come to mean another encoder.
    Trained by `teach`, it runs once for each sample of a data set in memory, not once an epoch. An encoder that is
    trained is part of the state dict, whole.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (bytes,) of one input; inputs are rows of UTF-8 bytes, uint8 or int64 (B, bytes), zero-padded.
        pretrained: a folder (config.json, tokenizer, model.safetensors), a name on the Hugging Face hub, or
            "package:folder" for a folder inside an installed package, which is not imported.
        frozen: train the head only.
        hidden: widths of the head's hidden layers (ReLU); empty for a linear classifier.
        pooling: "mean" over the tokens, the special ones included (as sentence-transformers), or "cls", the first.
        max_tokens: longer texts are cut to so many tokens.
        precision: "bf16" computes a frozen encoder in bfloat16: two to three times as fast on a processor that has
            instructions for it, slower on another, and other vectors in the third digit.

    Raises:
        InputError: transformers is not installed; the encoder cannot be loaded, lacks weights, or reads fewer tokens;
            bf16 for an encoder that is to be trained; inputs that are no rows of bytes.
    """
    text_length(input_shape, "text_encoder")
    if frozen:
        return FrozenEncoder(_shared(pretrained, pooling, max_tokens, precision), tuple(hidden), num_classes)
    if precision != "fp32":
        raise InputError(f"precision is {precision!r}, but weights are trained in fp32; set training.precision=bf16")
    return TrainedEncoder(Encoder(pretrained, pooling, max_tokens), tuple(hidden), num_classes)


def embed(
    texts: Sequence[str] | Tensor,
    *,
    pretrained: str,
    pooling: Literal["mean", "cls"] = "mean",
    max_tokens: int = 128,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    report: Report | None = None,
) -> Tensor:
    """The pooled output of a pretrained encoder for each text, float32 (N, D).

    Texts of about equal length go through together, so next to nothing is computed for padding.

    Args:
        texts: strings, or rows of UTF-8 bytes (N, L).
        pretrained: as in `text_encoder`, like `pooling`, `max_tokens` and `precision`.
        device: where to compute; the result is on the CPU.
        report: called after each batch with (texts done, texts in all).

    Raises:
        InputError: as `text_encoder`.
    """
    strings = to_texts(texts) if isinstance(texts, Tensor) else list(texts)
    return _shared(pretrained, pooling, max_tokens, precision).embed(strings, device=device, report=report)


class Encoder:
    """A pretrained encoder with its tokenizer: texts to tokens, tokens to vectors.

    Args:
        pretrained: as in `text_encoder`, like `pooling`, `max_tokens` and `precision`.

    Raises:
        InputError: as `text_encoder`.
    """

    def __init__(
        self, pretrained: str, pooling: str = "mean", max_tokens: int = 128, precision: Precision = "fp32"
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise InputError(f"pooling is {pooling!r}; choose 'mean' or 'cls'")
        if precision not in _DTYPES:
            raise InputError(f"precision is {precision!r}; choose 'fp32' or 'bf16'")
        self.pooling: str = pooling
        self.tokenizer: Any
        self.module: Any
        self.tokenizer, self.module = _load(pretrained, _DTYPES[precision])
        config = self.module.config
        most = min(self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 2**31)
        if not 1 <= max_tokens <= most:
            raise InputError(
                f"max_tokens is {max_tokens}, but the encoder '{pretrained}' reads 1 to {most}; give fewer"
            )
        self.max_tokens: int = max_tokens
        self.padding: int = getattr(config, "pad_token_id", None) or 0
        self.width: int = config.hidden_size
        self._known: dict[bytes, int] = {}
        self._table = torch.empty(0, self.width)
        self._primed = ""

    def __deepcopy__(self, memo: object) -> "Encoder":
        """Itself: nobody changes it."""
        return self

    @functools.cached_property
    def fingerprint(self) -> Tensor:
        """What tells this encoder from any other: a hash of its weights and its vocabulary; 32 whole numbers.

        They are floats, which averages of equal weights leave as they are.
        """
        digest = hashlib.blake2b(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode(), digest_size=32)
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return torch.tensor(list(digest.digest()), dtype=torch.float32)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of each text, special ones included."""
        if not texts:
            return []
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]

    def pooled(self, module: nn.Module, ids: Tensor) -> Tensor:
        """The vectors (B, D) of token numbers (B, T), int64, `ABSENT` after those of shorter texts."""
        there = ids != ABSENT
        output = module(input_ids=ids.masked_fill(~there, self.padding), attention_mask=there.long())
        hidden: Tensor = output.last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = there[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def embed(
        self, texts: Sequence[str], *, device: torch.device | str = "cpu", report: Report | None = None
    ) -> Tensor:
        """The vectors of texts, float32 (N, D), on the CPU, without gradient; see the function `embed`."""
        device = torch.device(device)
        self.module.to(device)
        tokens = self.tokens(texts)
        table, done = torch.empty(len(tokens), self.width), 0
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for chunk in _of_like_length([len(each) for each in tokens]):
                ids = rectangle([tokens[i] for i in chunk]).to(device)
                table[chunk] = self.pooled(self.module, ids).cpu()
                done += len(chunk)
                if report is not None:
                    report(done, len(tokens))
        return table

    def prime(
        self, parts: Sequence[Tensor], *, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """Compute the vectors of a whole data set, each part rows of bytes (N, L), and keep them until the next one.

        All at once, so that what a text gets depends on the data set alone, not on the order in which batches come.
        """
        distinct = list(dict.fromkeys(key for rows in parts for key in _keys(rows)))
        name = hashlib.blake2b(b"\0".join(distinct)).hexdigest()
        if name != self._primed:
            texts = [key.decode("utf-8", errors="replace") for key in distinct]
            self._table = self.embed(texts, device=device, report=report)
            self._known = {key: position for position, key in enumerate(distinct)}
            self._primed = name

    def vectors(self, rows: Tensor) -> Tensor:
        """The vectors (B, D) of rows of bytes (B, L), on their device: those that `prime` kept, or computed now."""
        keys = _keys(rows)
        found = [self._known.get(key, ABSENT) for key in keys]
        if ABSENT not in found:
            return self._table[found].to(rows.device)
        return self.embed(to_texts(rows), device=rows.device).to(rows.device)


class FrozenEncoder(nn.Module):
    """`text_encoder` with `frozen=True`: `head` and `fingerprint` are its tensors, the encoder is held beside them."""

    def __init__(self, encoder: Encoder, hidden: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        encoder.module.eval().requires_grad_(False)
        self.encoder: Encoder = encoder  # no module, so neither trained, nor saved, nor copied
        self.fingerprint: Tensor
        self.register_buffer("fingerprint", encoder.fingerprint.clone())
        self.head: nn.Sequential = head(encoder.width, hidden, num_classes)
        self.register_load_state_dict_pre_hook(_refuse_another)

    def prime(
        self, parts: Sequence[Tensor], *, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """See `Encoder.prime`."""
        self.encoder.prime(parts, device=device, report=report)

    def prepare(self, input: Tensor) -> Tensor:
        """The part without trained weights: bytes (..., B, L) to the encoder's vectors (..., B, D)."""
        require_bytes(input)
        return self.encoder.vectors(input.flatten(0, -2)).view(*input.shape[:-1], -1)

    def forward(self, input: Tensor, prepared: bool = False) -> Tensor:
        """Logits (B, C) of bytes (B, L), or with `prepared` of what `prepare` gave for them."""
        return self.head(input if prepared else self.prepare(input))


class TrainedEncoder(nn.Module):
    """`text_encoder` with `frozen=False`: `encoder` and `head`."""

    def __init__(self, encoder: Encoder, hidden: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.text: Encoder = encoder
        self.encoder: nn.Module = encoder.module
        self.head: nn.Sequential = head(encoder.width, hidden, num_classes)

    def prepare(self, input: Tensor) -> Tensor:
        """The part without trained weights: bytes (..., B, L) to token numbers (..., B, T), -1 after shorter ones."""
        require_bytes(input)
        return rectangle(self.text.tokens(to_texts(input.flatten(0, -2)))).to(input.device).view(*input.shape[:-1], -1)

    def forward(self, input: Tensor, prepared: bool = False) -> Tensor:
        """Logits (B, C) of bytes (B, L), or with `prepared` of what `prepare` gave for them."""
        return self.head(self.text.pooled(self.encoder, input if prepared else self.prepare(input)))


def _refuse_another(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a head that was trained on the vectors of another encoder."""
    theirs = state.get(f"{prefix}fingerprint")
    if theirs is not None and not torch.equal(theirs.cpu(), module.get_buffer("fingerprint").cpu()):
        raise InputError(
            "the weights belong to another encoder than the one that 'pretrained' names now (their fingerprints "
            "differ); put back the encoder that they were trained with"
        )


def _keys(rows: Tensor) -> list[bytes]:
    return [row.tobytes().rstrip(b"\0") for row in rows.to(device="cpu", dtype=torch.uint8).numpy()]


def _of_like_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """All positions, in batches of at most `_TOKENS` tokens (or one text), longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, _TOKENS // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def rectangle(tokens: Sequence[Sequence[int]]) -> Tensor:
    """Token numbers (B, T), int64, `ABSENT` after those of shorter texts."""
    longest = max(map(len, tokens), default=0)
    return torch.tensor([[*each, *[ABSENT] * (longest - len(each))] for each in tokens], dtype=torch.int64)


# -- loading -------------------------------------------------------------------------------------------------


def _shared(pretrained: str, pooling: str, max_tokens: int, precision: Precision) -> Encoder:
    """A frozen encoder, the same for all who ask for it while its file stays as it is."""
    file = Path(place_of(pretrained)) / "model.safetensors"
    return _kept(pretrained, pooling, max_tokens, precision, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=1)
def _kept(pretrained: str, pooling: str, max_tokens: int, precision: Precision, changed: int) -> Encoder:
    return Encoder(pretrained, pooling, max_tokens, precision)


def _load(pretrained: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and encoder, in eval mode."""
    needs = "config.json, a tokenizer and model.safetensors"
    read = functools.partial(_read, dtype=dtype)
    tokenizer, module, report = loaded(pretrained, read, what="encoder", needs=needs, model="text_encoder")
    if getattr(module, "pooler", None) is not None:
        module.pooler = None  # not used, and often not in the file
    refuse_missing((name for name in report["missing_keys"] if not name.startswith("pooler.")), pretrained, "encoder")
    return tokenizer, module


def _read(place: str, dtype: torch.dtype, **safe: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer, encoder, and what transformers reports about its weights."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]

    config = AutoConfig.from_pretrained(place, **safe)  # first: without a network it waits once, the others longer
    tokenizer = AutoTokenizer.from_pretrained(place, config=config, **safe)
    module, report = AutoModel.from_pretrained(
        place, config=config, use_safetensors=True, dtype=dtype, output_loading_info=True, **safe
    )
    return tokenizer, module, report
