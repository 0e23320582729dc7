"""Text teachers on an encoder that the tests make: tiny, random, saved to a folder, never downloaded."""

import copy
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preceptor import models
from preceptor.data import text
from preceptor.errors import InputError
from preceptor.models.encoder import Encoder, embed
from preceptor.models.texts import to_texts
from preceptor.recipe import DistillRecipe, TeachRecipe, parse
from preceptor.runs import load_model
from preceptor.runs.files import load_tensors
from preceptor.tasks.stack import Stack
from preceptor.training import distill, teach
from preceptor.training.optim.averaging import average_weights
from training.toys import metrics, snapshot, stopped_at, weights

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
transformers = pytest.importorskip("transformers")

WORDS = ["good", "bad", "film", "the", "very", "not", "plot", "actor", "un", "##even", "!", "."]


def save_encoder(folder: Path, *, seed: int = 0, dropout: float = 0.1, words: list[str] = WORDS) -> Path:
    """A BERT of two layers with a WordPiece vocabulary, as a folder."""
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=128,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences whose label is whether they say 'good' more often than 'bad', as a file of JSON lines."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    draw = torch.Generator().manual_seed(0)
    lines = ["text,label"]
    for _ in range(240):
        words = [WORDS[i] for i in torch.randint(8, (int(torch.randint(2, 12, (), generator=draw)),), generator=draw)]
        lines.append(f"{' '.join(words)}!,{'pos' if words.count('good') > words.count('bad') else 'neg'}")
    path.write_text("\n".join(lines) + "\n")
    return path


TEXTS = ["the good film!", "bad", "uneven plot . not very good . not very bad . the actor", "Ä ? good", "film film"]


def rows(texts: list[str], length: int = 120) -> Tensor:
    return torch.tensor([list(each.encode().ljust(length, b"\0")) for each in texts], dtype=torch.uint8)


def build(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"num_classes": 3, "input_shape": (120,), "pretrained": str(folder), "max_tokens": 12}
    return models.text_encoder(**defaults | options)


def one_by_one(folder: Path, texts: list[str], pooling: str, max_tokens: int) -> Tensor:
    """The oracle: transformers alone, one text at a time, without padding or mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.AutoModel.from_pretrained(folder)
    vectors = []
    for each in texts:
        ids = tokenizer(each, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = module(input_ids=ids).last_hidden_state[0]
        vectors.append(hidden.mean(0) if pooling == "mean" else hidden[0])
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_tokenizer_that_pads_on_the_left_changes_no_vector(folder: Path, tmp_path: Path, pooling: Any) -> None:
    """`cls` would read a pad token there."""
    left = shutil.copytree(folder, tmp_path / "left")
    transformers.AutoTokenizer.from_pretrained(left, padding_side="left").save_pretrained(left)
    assert transformers.AutoTokenizer.from_pretrained(left).padding_side == "left"
    found, expected = (embed(TEXTS, pretrained=str(each), pooling=pooling) for each in (left, folder))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("max_tokens", [5, 24])
def test_embed_is_transformers_one_text_at_a_time(folder: Path, pooling: Any, max_tokens: int) -> None:
    found = embed(TEXTS * 30, pretrained=str(folder), pooling=pooling, max_tokens=max_tokens)
    expected = one_by_one(folder, TEXTS, pooling, max_tokens).repeat(30, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    again = embed(rows(TEXTS * 30), pretrained=str(folder), pooling=pooling, max_tokens=max_tokens)
    assert torch.equal(found, again)
    assert not found.requires_grad
    assert not found.is_inference()  # a head can be trained on it


def test_bf16_is_near(folder: Path) -> None:
    found = embed(TEXTS, pretrained=str(folder), precision="bf16")
    assert found.dtype == torch.float32
    expected = one_by_one(folder, TEXTS, "mean", 24)
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found, expected).min() > 0.999
    half, full = build(folder, precision="bf16"), build(folder)
    with pytest.raises(InputError, match="another encoder"):  # a head of these vectors is not one of those
        half.load_state_dict(full.state_dict())


def test_embed_reports(folder: Path) -> None:
    seen = []
    embed(TEXTS * 40, pretrained=str(folder), report=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert len(seen) > 1
    assert embed([], pretrained=str(folder)).shape == (0, 16)


@pytest.mark.parametrize("frozen", [True, False])
def test_logits(folder: Path, frozen: bool) -> None:
    model = build(folder, frozen=frozen, hidden=(7,)).eval()
    expected = model.head(one_by_one(folder, TEXTS, "mean", 12))
    torch.testing.assert_close(model(rows(TEXTS)), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(rows(TEXTS, 300).long()), expected, atol=1e-5, rtol=1e-4)
    prepared = model.prepare(rows(TEXTS[:4]).view(2, 2, -1))
    assert prepared.shape[:2] == (2, 2)
    torch.testing.assert_close(model(prepared[1], prepared=True), expected[2:4], atol=1e-5, rtol=1e-4)


def test_a_frozen_encoder_is_not_trained_saved_or_copied(folder: Path) -> None:
    model = build(folder).train()
    assert list(model.state_dict()) == ["fingerprint", "head.0.weight", "head.0.bias"]
    assert [name for name, _ in model.named_parameters()] == ["head.0.weight", "head.0.bias"]
    model(rows(TEXTS)).sum().backward()
    module = model.encoder.module
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    torch.testing.assert_close(model(rows(TEXTS)), model(rows(TEXTS)))  # no dropout
    averaged = average_weights(model)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    assert averaged.module.encoder is model.encoder
    assert torch.equal(averaged.module.get_buffer("fingerprint"), model.fingerprint)
    assert build(folder).encoder is model.encoder


def test_a_trained_encoder_is_trained_and_saved(folder: Path) -> None:
    model = build(folder, frozen=False).train()
    assert not torch.equal(model(rows(TEXTS)), model(rows(TEXTS)))  # dropout
    model(rows(TEXTS)).pow(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    other = copy.deepcopy(model)
    nn.init.zeros_(other.encoder.embeddings.word_embeddings.weight)
    assert not torch.equal(other.eval()(rows(TEXTS)), model.eval()(rows(TEXTS)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(rows(TEXTS)), model(rows(TEXTS)))


def test_a_stack_of_heads_encodes_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [build(folder, hidden=(4,)) for _ in range(3)]
    nn.init.zeros_(members[1].head[0].weight)
    inputs = torch.stack([rows(TEXTS), rows(TEXTS[::-1])])
    texts: list[int] = []
    tokens = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, some: (texts.append(len(some)), tokens(self, some))[1])
    logits = Stack(members, [0, 1, 1])(inputs)
    assert texts == [10]
    for member, source, found in zip(members, [0, 1, 1], logits, strict=True):
        torch.testing.assert_close(found, member(inputs[source]), atol=1e-6, rtol=1e-5)


def recipe(kind: Any, data: Path, model: dict[str, Any], **more: Any) -> Any:
    raw = {
        "data": {"name": "text", "path": str(data)},
        "model": model,
        "split": {"train": 100, "heldout": 40, "test": 60},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "training": {"epochs": 2, "batch_size": 32, "device": "cpu", "checkpoint_every": 1},
    }
    return parse(kind, raw | more)


@pytest.mark.parametrize("frozen", [True, False])
def test_teach_killed_and_started_again(frozen: bool, folder: Path, reviews: Path, tmp_path: Path) -> None:
    model = {"name": "text_encoder", "pretrained": str(folder), "frozen": frozen, "max_tokens": 16}
    made = recipe(TeachRecipe, reviews, model, average={"decay": 0.9})
    whole = teach(made, tmp_path / "whole")
    with stopped_at(5):
        teach(made, tmp_path / "stopped")
    teach(made, tmp_path / "stopped")
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")
    loaded, about = load_model(tmp_path / "whole" / "best.safetensors")
    assert about.class_names == ("neg", "pos")
    data: Any = text(path=reviews)
    logits = load_tensors(tmp_path / "whole" / "predictions.safetensors")[0]["heldout/best"]
    index = json.loads((tmp_path / "whole" / "splits.json").read_text())["parts"]["heldout"]
    torch.testing.assert_close(loaded(data.train.inputs[index]), logits, atol=1e-5, rtol=1e-4)
    assert whole["num_parameters"] == (34 if frozen else sum(p.numel() for p in loaded.parameters()))


def test_a_frozen_encoder_runs_once_for_each_text(
    folder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    tokens = Encoder.tokens
    monkeypatch.setattr(Encoder, "tokens", lambda self, some: (counted.append(len(some)), tokens(self, some))[1])
    own = shutil.copytree(folder, tmp_path / "own")
    model = {"name": "text_encoder", "pretrained": str(own), "max_tokens": 16, "hidden": [8]}
    made = recipe(TeachRecipe, reviews, model, objective="SoTeacher")
    first = teach(made, seeds=[0, 1])
    distinct = len(set(to_texts(text(path=reviews).train.inputs)))  # type: ignore[attr-defined]
    assert counted[-1] == distinct
    assert sum(counted[:-1]) < distinct  # a few samples are tried before training
    alone = teach(made)
    assert counted.count(distinct) == 1
    assert alone["heldout"]["last"]["nll"] == pytest.approx(first["heldout"]["last"]["nll"][0], abs=1e-5)


def test_a_student_of_an_encoder(folder: Path, reviews: Path, tmp_path: Path) -> None:
    """Encoder to bag, through run folders; the student's weights load and need no transformers."""
    model = {"name": "text_encoder", "pretrained": str(folder), "max_tokens": 16}
    teach(recipe(TeachRecipe, reviews, model), tmp_path / "teacher")
    bag = {"name": "ngram_bag", "buckets": 512, "width": 8}
    made = recipe(
        DistillRecipe, reviews, bag, teacher=str(tmp_path / "teacher"), loss={"name": "ttm", "temperature": 2.0}
    )
    result = distill(made, tmp_path / "student")
    with stopped_at(3):
        distill(made, tmp_path / "again")
    distill(made, tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(tmp_path / "student")
    student, _ = load_model(tmp_path / "student" / "last.safetensors")
    assert weights(tmp_path / "student").keys() == {"table", "head.0.weight", "head.0.bias"}
    inputs: Tensor = text(path=reviews).train.inputs  # type: ignore[attr-defined]
    assert student(inputs).shape == (240, 2)
    first, last = (line["train"]["distill"] for line in metrics(tmp_path / "student"))
    assert last < first
    live = distill(made.model_copy(update={"cache": False}))
    assert live["heldout"]["last"]["nll"] == pytest.approx(result["heldout"]["last"]["nll"], abs=1e-4)


# -- what a user can get wrong -------------------------------------------------------------------------------


def test_weights_of_another_encoder_are_refused(folder: Path, reviews: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / "own")
    teach(recipe(TeachRecipe, reviews, {"name": "text_encoder", "pretrained": str(own)}), tmp_path / "run")
    load_model(tmp_path / "run" / "last.safetensors")
    shutil.rmtree(own)
    save_encoder(own, seed=1)
    with pytest.raises(InputError, match="another encoder than the one that 'pretrained' names now"):
        load_model(tmp_path / "run" / "last.safetensors")
    shutil.rmtree(own)
    save_encoder(own, words=[*WORDS[:-2], ".", "!"])  # the same weights, but tokens mean something else
    with pytest.raises(InputError, match="another encoder"):
        load_model(tmp_path / "run" / "last.safetensors")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_shape": (1, 8, 8)}, r"'text_encoder' reads text as rows of bytes .*shape \(1, 8, 8\)"),
        ({"max_tokens": 129}, "max_tokens is 129, but the encoder .* reads 1 to 128"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"pooling": "max"}, "pooling is 'max'; choose 'mean' or 'cls'"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"pretrained": "/no/such/folder"}, "the encoder '/no/such/folder' cannot be loaded"),
        (
            {"pretrained": "nobody/no-such-model"},
            "'nobody/no-such-model' cannot be loaded .*or, with a network, a name",
        ),
        ({"pretrained": "no_such_package:model"}, "in the package 'no_such_package', which is not installed"),
    ],
)
@pytest.mark.parametrize("frozen", [True, False])
def test_refused_options(options: Any, sentence: str, frozen: bool, folder: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        build(folder, frozen=frozen, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_inside_a_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packed_encoder"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(folder, package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    found = embed(TEXTS, pretrained="packed_encoder:model")
    assert torch.equal(found, embed(TEXTS, pretrained=str(folder)))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / "own")
    (own / "model.safetensors").unlink()
    (own / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(InputError, match=r"cannot be loaded .*model\.safetensors"):
        build(own)
    assert not (tmp_path / "exploded").exists()


def test_code_that_comes_with_an_encoder_is_not_run(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "code.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded"):
        build(own)
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_incomplete_encoders(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / "own")
    whole = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        build(own)
    tensors = load_file(folder / "model.safetensors")
    without = {name: t for name, t in tensors.items() if "layer.1.output.dense" not in name}
    save_file(without, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 2 of its weights \(the first: '.*layer\.1\.output\.dense\.bias'\)"):
        build(own)
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, own / "model.safetensors", {"format": "pt"})
    assert torch.equal(build(own)(rows(TEXTS)), build(folder)(rows(TEXTS)))  # the pooler is not used


def test_without_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / "own")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs transformers; run pip install 'preceptor\[text\]'"):
        build(own)


def test_texts_that_are_no_bytes(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"not torch\.float32"):
        build(folder)(torch.zeros(2, 5))
