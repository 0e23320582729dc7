"""Causal language models: tiny, random, saved to a folder, never downloaded."""

import os
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from preceptor import models
from preceptor.errors import InputError
from preceptor.models import causal_lm
from preceptor.models.causal_lm import CausalLM
from preceptor.models.folders import pretrained_of
from preceptor.models.hub import save_pretrained
from preceptor.runs.files import load_tensors
from preceptor.runs.weights import load_weights, save_weights

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
transformers = pytest.importorskip("transformers")

V = 17
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
SIZES = {**LLAMA, "head_dim": 8}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
OPT = {"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 24}
OPT |= {"word_embed_proj_dim": 16}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
KEEPING = [LLAMA, GPT2, *({**SIZES, "model_type": each} for each in ("qwen2", "qwen3", "gemma", "gemma3_text"))]
MIXING = [OPT, {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}]
MIXING += [{"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}]


def make(num_classes: int = V, seed: int = 0, **options: Any) -> CausalLM:
    torch.manual_seed(seed)
    return causal_lm(num_classes=num_classes, input_shape=(), **options).eval()


def small(seed: int = 0, **options: Any) -> CausalLM:
    return make(seed=seed, **{"width": 16, "depth": 1, "heads": 2} | options)


def called(config: dict[str, Any]) -> str:
    return config["model_type"]


def tokens(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", KEEPING, ids=called)
def test_logits_are_those_of_transformers(config):
    model = make(config=config)
    ids = tokens([3, 1, 4, 1, 5], [9, 2, 6, 5, 3])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model.model(input_ids=ids).logits)
    assert type(model.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    assert model(ids).shape == (2, 5, V)


def test_the_seed_decides_the_weights_and_the_global_generator_draws_them():
    one, same, other = (small(seed).state_dict().values() for seed in (0, 0, 1))
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))


def test_a_small_llama_by_its_sizes():
    model = small(width=48, depth=3, heads=4)
    config = model.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", 48, 3)
    assert (config.num_attention_heads, config.intermediate_size, config.vocab_size) == (4, 128, V)
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight


def test_no_token_is_padding_unless_it_is_said():
    """Gemma's own padding, token 0, would start at 0 and learn nothing."""
    gemma = {**SIZES, "model_type": "gemma"}
    assert make(config=gemma).model.get_input_embeddings().padding_idx is None
    assert make(config=gemma | {"pad_token_id": 5}).model.get_input_embeddings().padding_idx == 5


def test_dropout_in_place_of_what_stands_there():
    model = make(config=GPT2, dropout=0.5)
    assert {each.p for each in model.modules() if isinstance(each, nn.Dropout)} == {0.5}
    assert small(dropout=0.25).config.attention_dropout == 0.25
    assert make(config=GPT2).config.resid_pdrop == transformers.GPT2Config().resid_pdrop


def test_a_wider_head_is_cut_to_the_tokens(tmp_path):
    save_pretrained(make(24, config=LLAMA), tmp_path / "wide", [])
    model = make(V, pretrained=str(tmp_path / "wide"))
    ids = tokens([3, 1, 4])
    assert model.head_size == 24
    torch.testing.assert_close(model(ids), model.model(input_ids=ids).logits[..., :V])
    hidden, head = model.hidden_and_head(ids)
    torch.testing.assert_close(head.logits(hidden), model(ids))
    assert model.with_classes(20)(ids).shape == (1, 3, 20)
    with pytest.raises(InputError, match=r"the head of the language model '.*wide' has 24 rows and the data 25 tokens"):
        make(25, pretrained=str(tmp_path / "wide"))


def test_hidden_states_by_position_and_their_gradient():
    model = small()
    ids, places = tokens([3, 1, 4, 1, 5, 9]), tokens([0, 1, 2, 0, 1, 2])
    hidden, head = model.hidden_and_head(ids, places)
    torch.testing.assert_close(head.logits(hidden), model(ids, places))
    hidden.sum().backward()
    assert model.model.model.layers[0].mlp.up_proj.weight.grad.any()


# -- what a position looks at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", KEEPING, ids=called)
@pytest.mark.parametrize("training", [False, True])
def test_packed_documents_are_read_as_alone(config, training):
    """Of three documents in a row of other lengths than those that are compared when the model is made."""
    model = make(config=config | ({"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0} if config is GPT2 else {}))
    model.train(training)
    parts = [[3, 1], [4, 1, 5, 9, 2], [6, 5, 3]]
    row = torch.tensor([list(chain(*parts))])
    places = torch.cat([torch.arange(len(part)) for part in parts])[None]
    packed = model(row, places).split([len(part) for part in parts], dim=1)
    for part, found in zip(parts, packed, strict=True):
        torch.testing.assert_close(found, model(tokens(part)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", MIXING, ids=called)
def test_models_that_mix_documents_are_refused_packed_rows(config):
    model = make(config=config)
    ids, places = tokens([3, 1, 4, 1]), tokens([0, 1, 2, 3])
    assert model(ids, places).shape == model(ids).shape == (1, 4, V)
    with pytest.raises(InputError, match=r"does not keep the documents .* apart .*; give data\.packed=false"):
        model(ids, tokens([0, 1, 0, 1]))


@pytest.mark.parametrize("config", KEEPING, ids=called)
def test_no_position_looks_at_later_tokens(config):
    """By the gradient: of the logits at position 2 with respect to each token's embedding."""
    model = make(config=config)
    weight = model.model.get_input_embeddings().weight
    embedded = (one_hot(tokens([3, 1, 4, 1, 5]), V).float() @ weight).detach().requires_grad_()
    model.model(inputs_embeds=embedded, use_cache=False).logits[0, 2].sum().backward()
    assert embedded.grad[0, :3].abs().sum(-1).all()
    assert not embedded.grad[0, 3:].any()


def test_a_bidirectional_model_is_refused():
    with pytest.raises(InputError, match=r"BertLMHeadModel looks at later tokens.*; give a causal language model"):
        make(config=BERT)
    assert make(config=BERT | {"is_decoder": True})(tokens([1, 2])).shape == (1, 2, V)


def test_to_be_looked_at_changes_nothing():
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{key: value for key, value in GPT2.items() if key != "model_type"}, vocab_size=V)
    model = transformers.GPT2LMHeadModel(config).train()
    model.transformer.wte.eval()
    state = torch.get_rng_state()
    CausalLM(model, V)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not model.transformer.wte.training
    assert all(each.grad is None for each in model.parameters())


# -- folders and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_weights_travel_as_plain_tensors(tmp_path, tied):
    config = LLAMA | {"tie_word_embeddings": tied}
    model, other = make(config=config), make(config=config, seed=1)
    save_weights(tmp_path / "last.safetensors", model.state_dict(), {})
    load_weights(other, load_tensors(tmp_path / "last.safetensors")[0], "the weights")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert torch.equal(model(tokens([3, 1, 4])), other(tokens([3, 1, 4])))
    head, embedding = other.model.lm_head.weight, other.model.model.embed_tokens.weight
    assert (head is embedding) == tied


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_folder_is_what_transformers_loads(tmp_path, tied):
    model = make(config=LLAMA | {"tie_word_embeddings": tied})
    save_pretrained(model, tmp_path, [f"token {number}" for number in range(V)])
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokens([3, 1, 4])
    torch.testing.assert_close(found(input_ids=ids).logits, model(ids))
    torch.testing.assert_close(make(pretrained=str(tmp_path), seed=3)(ids), model(ids))
    assert "token 3" not in (tmp_path / "config.json").read_text()
    assert found.config.num_labels == 2  # as by default


def test_a_folder_is_a_language_model_by_its_architecture(tmp_path):
    make(24, config=GPT2).save_pretrained(tmp_path)
    model = pretrained_of(tmp_path)
    assert isinstance(model, CausalLM)
    assert (model.num_classes, model.source, model.training) == (24, str(tmp_path), False)


def test_a_tokenizer_goes_with_its_model(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="a"))
    make(8, config=LLAMA).save_pretrained(tmp_path / "one")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>").save_pretrained(tmp_path / "one")
    model = pretrained_of(tmp_path / "one")
    assert isinstance(model, CausalLM)
    assert (model.num_classes, model.head_size) == (3, 8)
    model.save_pretrained(tmp_path / "two")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "two").get_vocab() == {"a": 0, "b": 1, "<eos>": 2}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pretrained": "x", "config": LLAMA}, "given both pretrained and config; give one of the two"),
        ({"config": LLAMA, "width": 16}, "given both config and width; give one"),
        ({"width": 16, "heads": 3}, "width 16, depth 4 and 3 heads; give a width that is a multiple of twice"),
        ({"depth": 0}, "depth 0 and 4 heads; give"),
        ({"config": {"hidden_size": 16}}, "config.model_type None; give one of transformers' causal language models"),
        ({"config": {"model_type": "lama"}}, r"config.model_type 'lama'; did you mean 'llama'\?"),
        ({"config": LLAMA | {"hiden_size": 3}}, r"unknown key 'config.hiden_size' .*; did you mean 'hidden_size'\?"),
        (
            {"config": LLAMA | {"vocab_size": 18}},
            "config.vocab_size 18, and the data 17 tokens; leave config.vocab_size",
        ),
        (
            {"config": SIZES | {"num_key_value_heads": 5}},
            r"cannot be made of config .*; give sizes that fit one another",
        ),
        ({"config": GPT2, "dropout": 1.5}, "the dropout of the model 'causal_lm' is 1.5; give at least 0"),
        ({"config": MIXING[2], "dropout": 0.5}, "the configuration of 'mamba' has no dropout; leave dropout out"),
        ({"pretrained": "no/such"}, "the causal language model 'no/such' cannot be loaded"),
        ({"input_shape": (3, 8, 8)}, r"reads rows of tokens by name .*, but inputs have shape \(3, 8, 8\); choose"),
    ],
)
def test_what_cannot_be_is_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        models.causal_lm(**{"num_classes": V, "input_shape": ()} | options)
    assert "\n" not in str(caught.value)


def test_rows_that_are_too_long():
    with pytest.raises(InputError, match=r"have 33 tokens, but the language model reads 32 .*give data\.length=32"):
        make(config=GPT2)(torch.zeros(1, 33, dtype=torch.int64))


def test_weights_that_are_not_in_the_file(tmp_path):
    bare = tmp_path / "bare"
    make(config=LLAMA | {"tie_word_embeddings": False}).model.model.save_pretrained(bare)
    with pytest.raises(InputError, match=r"lacks 1 of its weights \(the first: 'lm_head\.weight'\)"):
        make(pretrained=str(bare))
