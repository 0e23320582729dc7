"""GGUF files, version 3: metadata and tensors, those in blocks of eight or four bits as float32; a Llama from one.

The format is that of ggml (docs/gguf.md in its repository), little-endian:

    "GGUF", version, numbers of tensors and of metadata; the metadata (name, type, value); of each tensor its name, its
    shape from the innermost axis on, its type and its place; then, aligned, what the tensors hold.

A block is 32 values of a row: in Q8_0 a scale in half precision and 32 signed bytes, in Q4_1 a scale and a minimum in
half precision and 16 bytes, whose lower halves are the first 16 values and whose upper halves the others.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.errors import InputError

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCK = 32


class Gguf(NamedTuple):
    """`metadata` by name, and `tensors`, float32, with PyTorch's order of axes."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


class _Cursor:
    """Values one after the other."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self.content = content
        self.place = 0

    def bytes(self, size: int) -> bytes:
        found = self.content[self.place : self.place + size].tobytes()
        self.place += size
        return found

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.bytes(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        return self.bytes(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, length = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(length)]
        return self.number(SCALARS[kind])


def read(path: Path | str) -> Gguf:
    """A GGUF file.

    Raises:
        InputError: it is none, of another version, or has tensors of other types than F32, F16, Q4_1 and Q8_0.
    """
    content = np.memmap(path, np.uint8, "r")
    cursor = _Cursor(content)
    magic, version = cursor.bytes(4), cursor.number("I")
    if magic != b"GGUF" or version != 3:
        raise InputError(f"'{path}' begins with {magic!r} and version {version}; give a GGUF file of version 3")
    num_tensors, num_values = cursor.number("Q"), cursor.number("Q")
    metadata = {cursor.string(): cursor.value(cursor.number("I")) for _ in range(num_values)}
    listed = [_listed(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.place // alignment) * alignment
    tensors = {name: values(content[start + place :], kind, shape) for name, shape, kind, place in listed}
    return Gguf(metadata, tensors)


def _listed(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    shape = tuple(cursor.number("Q") for _ in range(cursor.number("I")))
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def values(content: NDArray[np.uint8], kind: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor of one of ggml's types: 0 is F32, 1 F16, 3 Q4_1, 8 Q8_0.

    Args:
        content: bytes that begin with the tensor's.
        kind: ggml's number of its type.
        shape: from the outermost axis on.

    Raises:
        InputError: another type, or fewer bytes than the shape needs.
    """
    sizes = {0: (4, 1), 1: (2, 1), 3: (20, BLOCK), 8: (34, BLOCK)}
    if kind not in sizes:
        raise InputError(f"a tensor is of ggml's type {kind}; give a file of F32 (0), F16 (1), Q4_1 (3) and Q8_0 (8)")
    size, held = sizes[kind]
    blocks = int(np.prod(shape)) // held
    if len(content) < blocks * size:
        raise InputError(f"a tensor of shape {shape} needs {blocks * size} bytes of which {len(content)} are there")
    rows = np.ascontiguousarray(content[: blocks * size]).reshape(blocks, size)
    if held == 1:
        found = rows.view("<f4" if kind == 0 else "<f2").astype(np.float32)
    else:
        scale = rows[:, :2].view("<f2").astype(np.float32)
        found = scale * (_nibbles(rows[:, 4:]) if kind == 3 else rows[:, 2:].view(np.int8))
        if kind == 3:
            found += rows[:, 2:4].view("<f2").astype(np.float32)
    return torch.from_numpy(found.reshape(shape))


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[Any]:
    return np.concatenate([packed & 15, packed >> 4], -1)


# -- a Llama -----------------------------------------------------------------------------------------------------------

PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def llama(file: Gguf) -> Any:
    """transformers' `LlamaForCausalLM` of a file of that architecture, in evaluation mode.

    Raises:
        InputError: another architecture.
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    known = file.metadata
    if known["general.architecture"] != "llama":
        raise InputError(f"the file holds the architecture '{known['general.architecture']}'; give one of 'llama'")
    config = LlamaConfig(
        vocab_size=len(file.tensors["token_embd.weight"]),
        hidden_size=known["llama.embedding_length"],
        intermediate_size=known["llama.feed_forward_length"],
        num_hidden_layers=known["llama.block_count"],
        num_attention_heads=known["llama.attention.head_count"],
        num_key_value_heads=known["llama.attention.head_count_kv"],
        max_position_embeddings=known["llama.context_length"],
        rms_norm_eps=known["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": known["llama.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in file.tensors,
    )
    model = LlamaForCausalLM(config)
    heads, key_heads = known["llama.attention.head_count"], known["llama.attention.head_count_kv"]
    weights = dict(_named(file.tensors, heads, key_heads))
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model.eval()


def _named(tensors: dict[str, Tensor], heads: int, key_heads: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors as transformers names them."""
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for name, tensor in tensors.items():
        if not name.startswith("blk."):
            yield f"{whole[name.removesuffix('.weight')]}.weight", tensor
            continue
        _, number, part, _ = name.split(".")
        if part in ("attn_q", "attn_k"):
            tensor = _unpaired(tensor, heads if part == "attn_q" else key_heads)
        yield f"model.layers.{number}.{PARTS[part]}.weight", tensor


def _unpaired(rows: Tensor, heads: int) -> Tensor:
    """ggml turns neighbouring rows of a head against each other, transformers those half a head apart."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


def tokenizer(metadata: dict[str, Any]) -> Any:
    """The `tokenizers.Tokenizer` of a file whose tokens are GPT-2's bytes with each digit on its own ("smollm").

    Raises:
        InputError: another tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # pyright: ignore[reportMissingImports]

    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise InputError(f"the file's tokenizer is {kind}; give a file with ('gpt2', 'smollm')")
    vocabulary = {token: number for number, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))  # pyright: ignore[reportArgumentType]
    digits, spelled = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([digits, spelled])
    found.decoder = decoders.ByteLevel()
    return found
