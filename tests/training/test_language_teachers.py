"""A folder of transformers with a language model teaches; its tokens are compared with the data's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import preceptor
from preceptor.data import tokens
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.inputs import call
from preceptor.models import causal_lm
from preceptor.runs.contents import weights_digest
from preceptor.runs.references import teacher_references
from preceptor.serving.tapping import taps

transformers = pytest.importorskip("transformers")

STUDENT = {"name": "causal_lm", "width": 8, "depth": 1, "heads": 2}
WORDS = ["one", "two", "three", "four", "and", "make", "<eos>", "[UNK]"]


def save_tokenizer(folder: Path, words: list[str] = WORDS) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>").save_pretrained(folder)
    return folder


def save_model(folder: Path, num_classes: int, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    causal_lm(num_classes=num_classes, input_shape=(), width=8, depth=1, heads=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a language model with it whose head is padded, and a text."""
    place = tmp_path_factory.mktemp("language")
    save_tokenizer(save_model(place / "teacher", 12))
    lines = [f"{WORDS[n % 4]} and {WORDS[n % 3]} make {WORDS[n % 2]}" for n in range(60)]
    (place / "sums.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return place


@pytest.fixture(scope="module")
def sums(place: Path) -> Data:
    return tokens(path=place / "sums.jsonl", tokenizer=str(place / "teacher"), length=16)


def distill(data: Any, **options: Any) -> Any:
    loss = {"name": "kd", "temperature": 1}
    given = {"model": STUDENT, "loss": loss, "epochs": 1, "batch_size": 8, "device": "cpu"}
    return preceptor.distill(data=data, **(given | options))


def test_a_folder_teaches_what_its_model_would(place, sums, tmp_path):
    """A head of 12 rows for 8 tokens: as the model handed over, and a run that says what is not known."""
    folder = place / "teacher"
    named = distill(sums, teacher=str(folder), folder=tmp_path / "run")
    alone = distill(sums, teacher=causal_lm(num_classes=8, input_shape=(), pretrained=str(folder)))
    assert named["heldout"] == alone["heldout"]
    assert any("nothing is known of what the teacher" in note for note in named["notes"])
    assert not any("only sizes were compared" in note for note in named["notes"])
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "pretrained")
    assert len(found.lm_head.weight) == 8


def test_it_is_known_by_its_weights(place, tmp_path):
    def digest(folder: Path) -> str:
        [reference] = teacher_references(str(folder))
        return weights_digest(reference)

    copied = shutil.copytree(place / "teacher", tmp_path / "copied")
    assert digest(copied) == digest(place / "teacher")
    save_model(copied, 12, seed=1)
    assert digest(copied) != digest(place / "teacher")


def test_another_tokenizer_is_refused(place, sums, tmp_path):
    other = save_tokenizer(save_model(tmp_path / "other", 8), [*WORDS[:2], "four", "three", *WORDS[4:]])
    sentence = (
        r"the data's tokenizer has 'four' as number 3 and that of the language model '.*other' has 'four' as number "
        r"2, the first of 2 differences; give data\.tokenizer=.*other, or"
    )
    with pytest.raises(InputError, match=sentence):
        distill(sums, teacher=str(other))
    with pytest.raises(InputError, match=sentence):
        preceptor.teach(data=sums, model={"name": "causal_lm", "pretrained": str(other)}, epochs=1, device="cpu")
    again = tokens(path=place / "sums.jsonl", tokenizer=str(other), length=16)  # as the sentence says
    assert distill(again, teacher=str(other))["heldout"]["last"]["nll"] > 0


def test_without_a_tokenizer_sizes_are_compared(sums, tmp_path):
    bare = save_model(tmp_path / "bare", 9)
    notes = distill(sums, teacher=str(bare), folder=tmp_path / "run")["notes"]
    assert any("only sizes were compared: its head has 9 rows and the data 8 tokens" in note for note in notes)
    with pytest.raises(InputError, match="has 7 rows and the data 8 tokens"):
        distill(sums, teacher=str(save_model(tmp_path / "narrow", 7)))


# -- models of transformers themselves ---------------------------------------------------------------------------------


def opt() -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8, "word_embed_proj_dim": 8}
    return transformers.OPTForCausalLM(transformers.OPTConfig(vocab_size=8, **sizes))


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2))


def test_packed_documents_of_models_of_transformers(place, sums):
    """OPT mixes them, as a student and as a teacher; told to keep a cache, which is its default, GPT-2 would."""
    for options in ({"teacher": gpt2(), "model": opt}, {"teacher": opt()}):
        with pytest.raises(InputError, match=r"OPTForCausalLM does not keep .* apart .*; give data\.packed=false"):
            distill(sums, **options)
    model = gpt2().eval()
    ids, places = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 1, 0, 1]])
    with torch.no_grad():
        found = call(model, {"input_ids": ids, "position_ids": places}).logits
        torch.testing.assert_close(found[:, 2:], model(input_ids=ids[:, 2:]).logits)
        cached = model(input_ids=ids, position_ids=places).logits
        assert (found[:, 2:] - cached[:, 2:]).abs().max() > 1e-4
    padded = tokens(path=place / "sums.jsonl", tokenizer=str(place / "teacher"), length=16, packed=False)
    assert distill(padded, teacher=opt())["heldout"]["last"]["nll"] > 0


def test_taps_of_a_folder_say_that_its_inputs_go_by_name(place):
    with pytest.raises(InputError, match="a model with several inputs by name cannot be shown"):
        taps(str(place / "teacher"))
