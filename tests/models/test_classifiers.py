"""Classifiers of transformers that the tests make: tiny, random, saved to a folder, never downloaded."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import preceptor
from models.test_encoder import WORDS
from preceptor import models
from preceptor.data import text
from preceptor.data.dataset import Data
from preceptor.errors import InputError

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
transformers = pytest.importorskip("transformers")

TEXTS = ["good film", "bad film", "the plot !", "very good actor", "not good", "the very bad bad plot ."]


def save_classifier(
    folder: Path, *, labels: dict[int, str], words: list[str] = WORDS, seed: int = 0, **changes
) -> Path:
    """A BERT of one layer with a head for `labels`, and a tokenizer of its own."""
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32, **changes)
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )
    torch.manual_seed(seed)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifiers") / "tiny", labels={0: "neg", 1: "pos"})


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Data:
    file = tmp_path_factory.mktemp("films") / "films.jsonl"
    rows = [{"text": f"{each} {'!' * (n % 5)}", "label": ["neg", "pos"][n % 2]} for n, each in enumerate(TEXTS * 10)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return text(path=file)


def rows(texts: list[str], length: int = 64) -> torch.Tensor:
    return torch.tensor([list(each.encode().ljust(length, b"\0")) for each in texts], dtype=torch.uint8)


def by_transformers(folder: Path, texts: list[str]) -> torch.Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(texts, return_tensors="pt", padding=True)).logits


def make(kind: str = "text_classifier", **options: Any) -> nn.Module:
    shape = (64,) if kind == "text_classifier" else (3, 8, 8)
    return getattr(models, kind)(**({"num_classes": 2, "input_shape": shape} | options)).eval()


def test_a_fine_tuned_classifier_is_what_transformers_makes_of_it(folder):
    model = make(pretrained=str(folder))
    with torch.no_grad():
        found = model(rows(TEXTS))
    torch.testing.assert_close(found, by_transformers(folder, TEXTS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(folder, tmp_path, side):
    """Neither the tokenizer's side nor the length of a batch's longest text."""
    own = save_classifier(tmp_path / "c", labels={0: "neg", 1: "pos"}, padding_side=side)
    model = make(pretrained=str(own))
    with torch.no_grad():
        alone = torch.cat([model(rows([each])) for each in TEXTS])
        together = model(rows(TEXTS))
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(alone, by_transformers(folder, TEXTS))


def test_an_encoder_under_a_new_head_and_an_architecture_alone(folder):
    whole, new, fresh = (make(pretrained=str(folder), start=start) for start in ("whole", "encoder", "config"))
    own, taken, drawn = (model.state_dict() for model in (whole, new, fresh))
    assert torch.equal(
        own["model.bert.embeddings.word_embeddings.weight"], taken["model.bert.embeddings.word_embeddings.weight"]
    )
    assert not torch.equal(own["model.classifier.weight"], taken["model.classifier.weight"])
    assert not torch.equal(
        own["model.bert.embeddings.word_embeddings.weight"], drawn["model.bert.embeddings.word_embeddings.weight"]
    )
    assert make(pretrained=str(folder), start="encoder", num_classes=5)(rows(TEXTS)).shape == (6, 5)


def test_teacher_and_student_with_tokenizers_of_their_own(folder, films, tmp_path):
    """A fine-tuned teacher, a student of another vocabulary, in bytes; what comes out transformers loads."""
    small = save_classifier(tmp_path / "small", labels={0: "a", 1: "b"}, words=["film", "good", "bad"], seed=3)
    teacher = make(pretrained=str(folder), input_shape=films.input_shape)
    result = preceptor.distill(
        teacher=teacher,
        model={"name": "text_classifier", "pretrained": str(small), "start": "encoder"},
        data=films,
        folder=tmp_path / "run",
        epochs=2,
        batch_size=8,
        device="cpu",
    )
    assert result["heldout"]["last"]["nll"] > 0
    out = tmp_path / "run" / "pretrained"
    model = preceptor.load(tmp_path / "run")
    with torch.no_grad():
        torch.testing.assert_close(model(rows(TEXTS)), by_transformers(out, TEXTS))
    config = transformers.AutoConfig.from_pretrained(out)
    assert config.id2label == {0: "neg", 1: "pos"}
    listed = json.loads((tmp_path / "run" / "result.json").read_text())["files"]
    assert {"pretrained/config.json", "pretrained/model.safetensors"} <= listed.keys()
    assert not list((tmp_path / "run").glob(".pretrained*"))


def test_classes_in_another_order_are_refused(films, tmp_path):
    other = save_classifier(tmp_path / "other", labels={0: "pos", 1: "neg"})
    with pytest.raises(InputError, match="class 0 is 'pos' to the teacher and 'neg' to the student"):
        preceptor.distill(
            teacher=make(pretrained=str(other), input_shape=films.input_shape), data=films, model="ngram_bag", epochs=1
        )


def tokenized(count: int) -> list[dict]:
    return [{"input_ids": [2, 5 + i % 2, 7 + i % 3, 3][: 3 + i % 2], "labels": i % 2} for i in range(count)]


def test_models_of_transformers_themselves_on_tokens(folder, tmp_path):
    """The user's own tokenized samples, collator and models; the student is saved so that transformers loads it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    config = transformers.DistilBertConfig(
        vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=32, num_labels=2
    )
    result = preceptor.distill(
        teacher=teacher,
        model=lambda: transformers.DistilBertForSequenceClassification(config),
        data=(tokenized(40), tokenized(20), tokenized(20)),
        collate_fn=transformers.DataCollatorWithPadding(tokenizer),
        folder=tmp_path / "run",
        epochs=1,
        batch_size=8,
        device="cpu",
    )
    assert result["test"]["last"]["accuracy"] <= 1
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "pretrained")
    loaded = preceptor.load(tmp_path / "run", model=lambda: transformers.DistilBertForSequenceClassification(config))
    assert all(
        torch.equal(one, other)
        for one, other in zip(found.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def save_vit(folder: Path, **changes: Any) -> Path:
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=2,
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    said = {
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "size": {"height": 8, "width": 8},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said | changes))
    return folder


def test_an_image_classifier_teaches_on_pixels_of_its_own(tmp_path):
    """Its mean and deviation are those of its folder, whatever the student's are."""
    vit = save_vit(tmp_path / "vit")
    raw = torch.rand(60, 3, 8, 8)
    labels = torch.arange(60) % 2
    mean, std = 0.4, 0.2
    parts = TensorDataset((raw - mean) / std, labels)
    data = Data(parts, None, ("a", "b"), {"divide_by": 255, "mean": [mean] * 3, "std": [std] * 3})
    teacher = make("image_classifier", pretrained=str(vit))
    seen = []
    teacher.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    preceptor.distill(teacher=teacher, data=data, model="mlp", epochs=1, batch_size=60, device="cpu", cache=False)
    expected = (raw - 0.5) / 0.25
    last = seen[-1]
    furthest = (last[:, None] - expected[None]).abs().flatten(2).amax(-1).amin(-1)  # each image is one of them
    assert float(furthest.max()) < 1e-5
    student = preceptor.teach(
        data=data,
        model={"name": "image_classifier", "pretrained": str(vit)},
        epochs=1,
        batch_size=16,
        folder=tmp_path / "run",
        device="cpu",
    )
    assert student["heldout"]["last"]["nll"] > 0
    with torch.no_grad():
        found = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "pretrained")
        model = preceptor.load(tmp_path / "run")
        torch.testing.assert_close(model(raw), found(pixel_values=raw).logits)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("text_classifier", {"num_classes": 3}, "has 2 classes and the data 3; start='encoder' draws a head"),
        ("text_classifier", {"start": "nothing"}, "start is 'nothing'; choose 'whole', 'encoder' or 'config'"),
        ("text_classifier", {"max_tokens": 99}, "max_tokens is 99, but the classifier .* reads 1 to 32"),
        ("text_classifier", {"pretrained": "/no/such/folder"}, "the classifier '/no/such/folder' cannot be loaded"),
        ("text_classifier", {"pretrained": "nobody/no-such"}, "cannot be loaded .*or, with a network, a name"),
        ("text_classifier", {"input_shape": (3, 8, 8)}, "reads text as rows of bytes"),
        ("image_classifier", {"input_shape": (64,)}, "reads images"),
        ("image_classifier", {"input_shape": (1, 8, 8), "pretrained": "VIT"}, "reads images of 3 channels"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, tmp_path, kind, options, sentence):
    options = {"pretrained": str(folder)} | options
    if options["pretrained"] == "VIT":
        options["pretrained"] = str(save_vit(tmp_path / "vit"))
    with pytest.raises(InputError, match=sentence) as caught:
        make(kind, **options)
    assert "\n" not in str(caught.value)


def test_an_encoder_is_no_whole_classifier(tmp_path, folder):
    """The weights of a head that is not in the file would be drawn."""
    bare = tmp_path / "bare"
    transformers.AutoModel.from_pretrained(folder).save_pretrained(bare)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(bare)
    with pytest.raises(InputError, match=r"lacks 2 of its weights \(the first: 'classifier\.bias'\)"):
        make(pretrained=str(bare))
    make(pretrained=str(bare), start="encoder")


def test_a_folder_of_transformers_teaches_by_its_name(folder, films, tmp_path, monkeypatch):
    """In Python and on the command line, where a recipe names the data; and the folder's content is the run's."""
    alone = preceptor.distill(
        teacher=make(pretrained=str(folder), input_shape=films.input_shape),
        data=films,
        model="ngram_bag",
        epochs=1,
        device="cpu",
    )
    copied = shutil.copytree(folder, tmp_path / "own")
    options = {"data": films, "model": "ngram_bag", "epochs": 1, "device": "cpu", "folder": tmp_path / "run"}
    result = preceptor.distill(teacher=str(copied), **options)
    assert result["heldout"] == alone["heldout"]
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"classifier_dropout": 0.25}))
    with pytest.raises(InputError, match="its weights have changed"):
        preceptor.distill(teacher=str(copied), **options)


def test_a_folder_of_transformers_that_is_no_teacher(tmp_path, films, folder):
    from preceptor.study.teachers import read_candidates

    encoder = tmp_path / "encoder"
    transformers.AutoModel.from_pretrained(folder).save_pretrained(encoder)
    with pytest.raises(InputError, match="is BertModel, and no classifier of texts or images"):
        preceptor.distill(teacher=str(encoder), data=films, model="ngram_bag", epochs=1, device="cpu")
    with pytest.raises(InputError, match="is a model of transformers, which has no weights, epochs or members"):
        preceptor.distill(teacher=f"{folder}:best", data=films, model="ngram_bag", epochs=1, device="cpu")
    with pytest.raises(InputError, match="no held-out predictions are stored; record it on your data first"):
        read_candidates([str(folder)])


def test_a_folder_of_transformers_is_recorded(tmp_path, films, folder):
    record = preceptor.record(str(folder), tmp_path / "record", data=films, device="cpu")
    options = {"data": films, "model": "ngram_bag", "epochs": 1, "device": "cpu"}
    one, other = (preceptor.distill(teacher=str(each), **options) for each in (tmp_path / "record", folder))
    assert len(record) > 0
    assert one["heldout"]["last"]["nll"] == pytest.approx(other["heldout"]["last"]["nll"], rel=1e-5)


def test_a_student_is_exported_as_transformers_loads_it(folder, films, tmp_path):
    preceptor.teach(
        data=films,
        model={"name": "text_classifier", "pretrained": str(folder)},
        folder=tmp_path / "run",
        epochs=1,
        batch_size=16,
        device="cpu",
    )
    preceptor.export(tmp_path / "run", to="pretrained", path=tmp_path / "out", data=films)
    with torch.no_grad():
        expected = preceptor.load(tmp_path / "run")(rows(TEXTS))
    torch.testing.assert_close(by_transformers(tmp_path / "out", TEXTS), expected)
