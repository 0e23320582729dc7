"""The benchmark of SmolLM2 without SmolLM2: made-up GGUF files against slow loops; the quick form, a random model.

The package's own file was decoded once beside ggml's reference in Python (gguf 0.19): all 134,515,008 values equal.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import gguf_file
import smollm2
from preceptor.errors import InputError

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


# -- made-up files -----------------------------------------------------------------------------------------------------


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(found: Any) -> bytes:
    """A type's number and the value."""
    match found:
        case bool():
            return struct.pack("<I?", 7, found)
        case int():
            return struct.pack("<II", 4, found)
        case float():
            return struct.pack("<If", 6, found)
        case str():
            return struct.pack("<I", 8) + string(found)
    inner = [value(each) for each in found]
    return struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(inner)) + b"".join(each[4:] for each in inner)


def made(path: Path, metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> Path:
    """A file, its tensors at multiples of 64 bytes."""
    metadata = {"general.alignment": 64, **metadata}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(string(name) + value(found) for name, found in metadata.items())
    body = b""
    for name, (kind, shape, content) in tensors.items():
        head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += content + bytes(-len(content) % 64)
    path.write_bytes(head + bytes(-len(head) % 64) + body)
    return path


def slow(kind: int, content: bytes) -> list[float]:
    """Blocks value by value, as the format describes them."""
    found: list[float] = []
    if kind == Q8_0:
        for at in range(0, len(content), 34):
            (scale,) = struct.unpack_from("<e", content, at)
            found += [scale * each for each in struct.unpack_from("<32b", content, at + 2)]
    else:
        for at in range(0, len(content), 20):
            scale, least = struct.unpack_from("<ee", content, at)
            packed = content[at + 4 : at + 20]
            found += [scale * (packed[i] % 16) + least for i in range(16)]
            found += [scale * (packed[i] // 16) + least for i in range(16)]
    return found


def blocks(kind: int, number: int) -> bytes:
    draw = np.random.default_rng(kind)
    scales = draw.normal(size=(number, 2 if kind == Q4_1 else 1)).astype("<f2")
    held = draw.integers(0, 256, (number, 16 if kind == Q4_1 else 32), dtype=np.uint8)
    return b"".join(scale.tobytes() + each.tobytes() for scale, each in zip(scales, held, strict=True))


@pytest.mark.parametrize("kind", [Q4_1, Q8_0])
def test_blocks_are_those_of_slow_loops(tmp_path: Path, kind: int) -> None:
    content = blocks(kind, 3 * 2)  # three rows of 64
    one = struct.pack("<3f", 0.5, -2.0, 3.25)
    file = made(tmp_path / "a.gguf", {}, {"first": (F32, (3,), one), "blocks": (kind, (3, 64), content)})
    found = gguf_file.read(file).tensors
    assert found["first"].tolist() == [0.5, -2.0, 3.25]
    assert found["blocks"].shape == (3, 64)
    np.testing.assert_allclose(found["blocks"].flatten(), slow(kind, content), rtol=1e-6, atol=1e-6)


def test_metadata_are_read_back(tmp_path: Path) -> None:
    said = {"a.name": "größe", "b": 7, "c": 0.5, "d": True, "e": ["x", "", "yz"], "f": [1, 2, 3]}
    half = np.array([1.5, -0.25], "<f2").tobytes()
    found = gguf_file.read(made(tmp_path / "a.gguf", said, {"half": (F16, (2,), half)}))
    assert found.metadata == {"general.alignment": 64, **said}
    assert found.tensors["half"].tolist() == [1.5, -0.25]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGML" + bytes(30))
    with pytest.raises(InputError, match="GGUF file of version 3"):
        gguf_file.read(tmp_path / "no.gguf")
    with pytest.raises(InputError, match="type 12"):
        gguf_file.read(made(tmp_path / "k.gguf", {}, {"k": (12, (256,), bytes(144))}))
    with pytest.raises(InputError, match="128 bytes of which 64"):
        gguf_file.read(made(tmp_path / "short.gguf", {}, {"short": (F32, (32,), bytes(64))}))
    with pytest.raises(InputError, match="'qwen2'"):
        gguf_file.llama(gguf_file.Gguf({"general.architecture": "qwen2"}, {}))
    with pytest.raises(InputError, match="tokenizer"):
        gguf_file.tokenizer({"tokenizer.ggml.model": "llama"})


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_says_the_same_after_a_file(tmp_path: Path, tied: bool) -> None:
    """transformers turns the values j and j + half of a head, ggml 2j and 2j + 1."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    tensors = {}
    theirs = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    theirs |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    theirs |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in model.state_dict().items():
        parts = name.removesuffix(".weight").split(".")
        if name == "lm_head.weight" and tied:
            continue
        if parts[-1] in ("q_proj", "k_proj"):
            size, weight = 8, weight.clone()
            source = weight.clone()
            for head in range(len(weight) // size):
                for j in range(size // 2):
                    weight[head * size + 2 * j] = source[head * size + j]
                    weight[head * size + 2 * j + 1] = source[head * size + j + size // 2]
        plain = name.removesuffix(".weight")
        new = whole.get(plain) or f"blk.{parts[2]}.{theirs[parts[-1]]}"
        tensors[f"{new}.weight"] = (F32, tuple(weight.shape), weight.numpy().tobytes())
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-4,
        "llama.rope.freq_base": 500.0,
    }
    found = gguf_file.llama(gguf_file.read(made(tmp_path / "a.gguf", metadata, tensors)))
    tokens = torch.randint(50, (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_merges_and_has_digits_alone() -> None:
    tokens = ["Ġ", "a", "b", "1", "2", "Ġa", "ab", "Ġab", "12", "Ċ"]
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens}
    metadata["tokenizer.ggml.merges"] = ["Ġ a", "a b", "Ġa b", "1 2"]
    found = gguf_file.tokenizer(metadata)
    text = "ab ab 12\nab"
    assert found.encode(text).tokens == ["ab", "Ġab", "Ġ", "1", "2", "Ċ", "ab"]  # never "12"
    assert found.decode(found.encode(text).ids) == text


# -- the quick form ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    picture = tmp_path_factory.mktemp("smollm2") / "curves.png"
    found = smollm2.main(["--quick", "--picture", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    return found


def test_dense_is_exact_the_top_k_bounded_and_a_sample_unbiased(rows: dict[str, dict[str, float]]) -> None:
    assert rows["Dense('float16')"]["kl"] < 1e-5
    assert rows["Dense('float16')"]["gradient"] < 1e-3
    errors = [rows[f"TopK({k})"]["error"] for k in (4, 16, 64)]
    assert errors == sorted(errors)
    assert errors[-1] < -10 * rows["TopK(64)"]["standard error"]
    for k in (4, 16, 64):
        sample = rows[f"Sampled({k})"]
        assert abs(sample["error"]) < 4 * sample["standard error"]
        assert sample["gradient"] < rows[f"TopK({k})"]["gradient"]
        assert math.isnan(sample["kl"])


def test_bytes_are_those_of_the_arrays(rows: dict[str, dict[str, float]]) -> None:
    """id 8, label 4, ten numbers of 4; of a class in half precision 2 and in 16 bits 2, or 1 bit of 400."""
    beside = 8 + 4 + 40
    held = {"Dense('float16')": 800, "TopK(4)": 16 + 4 * 8, "TopK(64)": 128 + 50 + 4 * 8, "Sampled(64)": 128 + 50 + 4}
    for name, size in held.items():
        assert rows[name]["bytes"] == pytest.approx(beside + size, abs=1.0)  # and a header


def test_the_head_gradient_is_autograd_s() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(150, 5), torch.randn(9, 5, requires_grad=True)
    teacher = torch.randn(150, 9).log_softmax(-1)
    logits = hidden @ weight.T
    said = smollm2.Outputs(teacher, logits.detach(), hidden, torch.randint(9, (150,)))
    torch.nn.functional.kl_div(logits.log_softmax(-1), teacher, reduction="sum", log_target=True).backward()
    torch.testing.assert_close(smollm2.head_gradient(said, lambda ids: teacher[ids]), weight.grad)


def test_the_student_sees_its_piece_alone() -> None:
    model, text = smollm2.tiny(2, 128)
    said = smollm2.outputs_of(model, text.tokens)
    with torch.no_grad():
        alone = model(text.tokens[1:, 64:128]).logits[0]
        whole = model(text.tokens[1:, :128]).logits[0].log_softmax(-1)
    torch.testing.assert_close(said.student[192:], alone)
    torch.testing.assert_close(said.teacher[128:], whole)
    assert torch.equal(said.labels[128:], text.tokens[1, 1:])
