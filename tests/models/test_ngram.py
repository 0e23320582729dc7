"""Bags of hashed n-grams, against a hasher in plain Python and against torch's own embedding bag."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from preceptor import models
from preceptor.errors import InputError
from preceptor.models.ngram import ngram_buckets
from preceptor.tasks.stack import Stack

ROOT = Path(__file__).parents[2]
DOCUMENTED: dict[str, Any] = {}
exec(re.findall(r"```python\n(.*?)```", (ROOT / "docs/text.md").read_text(encoding="utf-8"), re.DOTALL)[0], DOCUMENTED)

SENTENCES = [
    "LMAO, AMAZING!",
    "it's 2 gr8 :) :-( <3",
    "a",
    "!",
    " \t\n ",
    "Größe, naïve café — 日本語",
    "Élan",
    "x" * 70,
    "I am  not, I repeat NOT, amused...",
    "the the the",
]


def rows(texts: list[str], length: int | None = None) -> Tensor:
    encoded = [text.encode() for text in texts]
    length = length or max(1, *map(len, encoded))
    return torch.tensor([list(text.ljust(length, b"\0")) for text in encoded], dtype=torch.uint8)


def expected(text: str, buckets: int, words: Any, characters: Any) -> list[int]:
    return sorted((value * buckets) >> 31 for value in DOCUMENTED["ngram_hashes"](text, words, characters))


def found(inputs: Tensor, **options: Any) -> list[list[int]]:
    return [sorted(row[row >= 0].tolist()) for row in ngram_buckets(inputs, **options)]


@pytest.mark.parametrize(
    ("words", "characters"), [((1, 2), (3, 4, 5)), ((), (2,)), ((3,), ()), ((1, 2, 3), (5, 2)), ((8,), (8,))]
)
def test_buckets_are_those_of_plain_python(words: Any, characters: Any) -> None:
    options: Any = {"buckets": 2**31 - 1, "words": words, "characters": characters}
    assert found(rows(SENTENCES), **options) == [expected(text, **options) for text in SENTENCES]


# Words with bytes of two to four, white space of several kinds, and everything else that UTF-8 can hold.
TEXT = st.text(st.one_of(st.sampled_from("aAbzZ09' \t.,!é日😀"), st.characters(codec="utf-8", exclude_characters="\0")))


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_buckets_of_any_text(texts: list[str]) -> None:
    options: Any = {"buckets": 1000, "words": (1, 2), "characters": (2, 3, 5)}
    assert found(rows(texts), **options) == [expected(text, **options) for text in texts]


def test_ngrams_as_fasttext_has_them() -> None:
    """'<wh', 'whe', 'her', 'ere', 're>': where two words share one, they share its bucket."""
    three = {"buckets": 2**31 - 1, "characters": (3,)}
    where, her, there = (set(row) for row in found(rows(["where", "her", "there"]), **three))
    assert (len(where), len(her)) == (5, 3)
    assert len(where & there) == 3  # her, ere, re>
    assert len(where & her) == 1  # her


def test_word_order_counts_only_in_longer_word_ngrams() -> None:
    texts = rows(["dog bites man", "man bites dog"])
    one, other = found(texts, buckets=2**31 - 1, words=(1,), characters=(3,))
    assert one == other
    one, other = found(texts, buckets=2**31 - 1, words=(2,))
    assert not set(one) & set(other)


def test_buckets_are_used_evenly() -> None:
    """Short, similar n-grams do not crowd: a chi-squared statistic near its degrees of freedom."""
    texts = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz0123"]
    for options in ({"words": (1,)}, {"characters": (5,)}, {"words": (2,)}):
        inputs = rows([f"{text} is" for text in texts] if options == {"words": (2,)} else texts)
        counts = torch.bincount(ngram_buckets(inputs, buckets=100, **options).flatten(), minlength=100)  # type: ignore
        assert counts.sum() == 1000
        assert 50 < ((counts - 10.0) ** 2 / 10).sum() < 170  # 99 degrees of freedom: mean 99, standard deviation 14


def test_the_hash_is_the_same_in_every_process() -> None:
    code = (
        "import torch; from preceptor.models.ngram import ngram_buckets;"
        "text = torch.tensor([list(b'so it goes')]);"
        "print(ngram_buckets(text, buckets=2**20, words=(1, 2), characters=(3,)).tolist())"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert sorted(eval(printed.stdout)[0]) == expected("so it goes", 2**20, (1, 2), (3,))


def build(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.ngram_bag(**{"num_classes": 3, "input_shape": (80,), "buckets": 512, "width": 8} | options)


@pytest.mark.parametrize("pooling", ["mean", "sqrt"])
@pytest.mark.parametrize("hidden", [(), (5, 4)])
def test_logits_are_those_of_an_embedding_bag(pooling: str, hidden: Any) -> None:
    model = build(pooling=pooling, hidden=hidden)
    tensors = dict(model.named_parameters())
    for text, logits in zip(SENTENCES, model(rows(SENTENCES)), strict=True):
        buckets = expected(text, 512, (1, 2), (3, 4, 5))
        total = tensors["table"][buckets].sum(0)
        number = max(1, len(buckets))
        bag = total / (number if pooling == "mean" else number**0.5)
        torch.testing.assert_close(logits, model.get_submodule("head")(bag))


def test_the_documented_reader_gives_the_model_s_logits() -> None:
    model = build()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    logits = np.stack([DOCUMENTED["logits"](tensors, text) for text in SENTENCES])
    np.testing.assert_allclose(model(rows(SENTENCES)).detach().numpy(), logits, atol=1e-5)


def test_neither_padding_nor_neighbours_count() -> None:
    model = build()
    together = model(rows(SENTENCES, 300))
    for text, logits in zip(SENTENCES, together, strict=True):
        torch.testing.assert_close(model(rows([text]))[0], logits)
    assert torch.equal(model(rows(SENTENCES).long()), together)
    assert model(rows(SENTENCES)[:0]).shape == (0, 3)


def test_gradient() -> None:
    """That of torch's embedding bag, which adds up every n-gram's share; nothing reaches a bucket that is not there."""
    model = build()
    inputs = rows(SENTENCES)
    model(inputs).pow(2).sum().backward()
    table = model.get_parameter("table").detach().clone().requires_grad_()
    buckets = [torch.tensor(expected(text, 512, (1, 2), (3, 4, 5)), dtype=torch.int64) for text in SENTENCES]
    starts = torch.tensor([0, *map(len, buckets)]).cumsum(0)[:-1]
    bags = nn.functional.embedding_bag(torch.cat(buckets), table, starts, mode="sum")
    bags = bags / torch.tensor([max(1, len(b)) for b in buckets])[:, None]
    model.get_submodule("head")(bags).pow(2).sum().backward()
    torch.testing.assert_close(model.get_parameter("table").grad, table.grad)
    assert (model.get_parameter("table").grad.any(1).sum()) == len(torch.cat(buckets).unique())  # type: ignore[union-attr]


@pytest.mark.parametrize("source_of", [None, [0, 0, 0], [1, 0, 1]])
def test_a_stack_is_its_models(source_of: list[int] | None) -> None:
    members = [build(hidden=(4,)) for _ in range(3)]
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        nn.init.normal_(member.get_parameter("table"))
    sources = [SENTENCES[:4], SENTENCES[4:8], SENTENCES[6:]]
    used = source_of or [0, 1, 2]
    inputs = torch.stack([rows(texts, 100) for texts in sources[: max(used) + 1]])
    stack = Stack(members, source_of)
    logits = stack(inputs)
    logits.pow(2).sum().backward()
    for position, (member, source) in enumerate(zip(members, used, strict=True)):
        alone = member(inputs[source])
        torch.testing.assert_close(logits[position], alone)
        alone.pow(2).sum().backward()
        for name, tensor in member.named_parameters():
            grad = dict(stack.named_parameters())[name.replace(".", "/")].grad
            torch.testing.assert_close(grad[position], tensor.grad)  # type: ignore[index]


def test_functional_transforms() -> None:
    members = [build(), build()]
    tensors, _ = stack_module_state(members)
    inputs = rows(SENTENCES)
    prepared = members[0].prepare(inputs)  # type: ignore[operator]

    def call(one: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(members[0], one, (x,), {"prepared": True})

    torch.testing.assert_close(torch.vmap(call, (0, None))(tensors, prepared)[1], members[1](inputs))
    one = dict(members[0].named_parameters())
    halves = prepared.view(2, 5, -1)
    torch.testing.assert_close(torch.vmap(call, (None, 0))(one, halves).flatten(0, 1), members[0](inputs))
    members[0](inputs).sum().backward()
    gradient = torch.func.grad(lambda tensors: call(tensors, prepared).sum())(one)
    torch.testing.assert_close(gradient["table"], one["table"].grad)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_shape": (1, 8, 8)}, r"'ngram_bag' reads text .*shape \(1, 8, 8\).*data set 'text'"),
        ({"words": (), "characters": ()}, "words and characters are both empty"),
        ({"words": (0,)}, "words holds 0; .* whole numbers from 1 to 8"),
        ({"characters": (1,)}, "characters holds 1; .* whole numbers from 2 to 8"),
        ({"characters": (2.5,)}, r"characters holds 2\.5"),
        ({"buckets": 0}, "buckets is 0"),
        ({"buckets": 2**31}, "buckets is 2147483648"),
        ({"width": 0}, "width 0"),
        ({"pooling": "max"}, "pooling is 'max'; choose 'mean' or 'sqrt'"),
    ],
)
def test_refused_options(options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(**options)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (torch.zeros(2, 5), "not torch.float32"),
        (torch.tensor([[5, 256]]), "0 to 255, but holds 256"),
        (torch.tensor([[-1, 2]]), "holds -1"),
    ],
)
def test_inputs_that_are_no_bytes(inputs: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()(inputs)
