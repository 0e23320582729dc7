"""Causal language models: from hidden states or all logits one gradient, by hand; what a head is; packed documents."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Trainer

from integrations.toys import (
    arguments,
    batch_of,
    bert,
    kd_formula,
    language_model,
    next_token_gradient,
    relative_error,
    texts,
    trained,
)
from preceptor.errors import InputError
from preceptor.integrations import Distillation
from preceptor.integrations.transformers import Distilled, hidden_and_head
from preceptor.losses import linear
from preceptor.losses.tokens import shifted

WEIGHTS = {"ce_weight": 0.3, "distill_weight": 0.7}
both = pytest.mark.parametrize("fused", [False, True])
# PEFT asks for what transformers has renamed.
peft_warns = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def distilled(folder: Path, *, student: Any = None, data: Any = None, args: Any = None, **options: Any) -> Any:
    student = language_model(seed=0) if student is None else student
    given = {"teacher": language_model(seed=1), **WEIGHTS, **options}
    return trained(Distilled(Trainer), folder, texts() if data is None else data, student, args=args, **given)


def by_hand(data: Any, temperature: float = 1.0, **models: Any) -> Any:
    given = {"student": language_model(seed=0), "teacher": language_model(seed=1), **models}
    return next_token_gradient(
        **given, data=data, soft=lambda student, teacher: kd_formula(student, teacher, temperature)
    )


# --- One gradient ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("size", "accumulate"), [(8, 1), (4, 2), (1, 8), (3, 3)])
def test_ragged_texts_have_the_gradient_of_the_whole_batch(
    fused: bool, size: int, accumulate: int, tmp_path: Path
) -> None:
    data = texts(hidden=(2,))
    gradient, parts = by_hand(data, 1.5)
    shares = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
    args = arguments(tmp_path, **shares, logging_strategy="steps", logging_steps=1)
    trainer = distilled(tmp_path, data=data, args=args, temperature=1.5, fused=fused)
    assert relative_error(trainer.gradients[0], gradient) < 1e-6
    logged = trainer.state.log_history[0]
    assert {name: logged[name] for name in parts} == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        "ttm",
        "reverse_kl",
        {"name": "wttm", "temperature": 1.3},
        {"name": "jsd", "beta": 0.2, "normalize": True},
        {"name": "skew_kl", "skew": 0.3},
        {"name": "ptloss", "coefficients": [0.5, -0.2]},
        "tvd",
    ],
    ids=str,
)
def test_a_fused_loss_is_the_loss_of_all_logits(loss: Any, tmp_path: Path) -> None:
    found, plain = (distilled(tmp_path, loss=loss, fused=fused).gradients[0] for fused in (True, False))
    assert relative_error(found, plain) < 1e-5


@both
def test_the_temperature_of_a_language_model_is_one(fused: bool, tmp_path: Path) -> None:
    gradient, _ = by_hand(texts())
    assert relative_error(distilled(tmp_path, fused=fused).gradients[0], gradient) < 1e-6


@pytest.mark.parametrize(
    "teacher",
    [
        lambda batch: language_model(seed=1)(batch["input_ids"], attention_mask=batch["attention_mask"]),
        [language_model(seed=1), language_model(seed=1)],
        language_model(seed=1, tie_word_embeddings=False).double(),
    ],
    ids=["function", "mixture", "double"],
)
def test_any_teacher_of_a_fused_loss(teacher: Any, tmp_path: Path) -> None:
    gradient, _ = by_hand(texts())
    assert relative_error(distilled(tmp_path, teacher=teacher, fused=True).gradients[0], gradient) < 1e-5


@peft_warns
def test_adapters_learn_alone_by_a_fused_loss(tmp_path: Path) -> None:
    def adapted() -> Any:
        torch.manual_seed(3)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
        return get_peft_model(language_model(seed=0), config)

    gradient, _ = by_hand(texts(), student=adapted())
    found = distilled(tmp_path, student=adapted(), fused=True).gradients[0]
    assert all("lora" in name for name in found)
    assert relative_error(found, gradient) < 1e-6


def test_the_plain_loop(tmp_path: Path) -> None:
    data = texts(hidden=(2,))
    gradient, _ = by_hand(data)
    student, teacher, batch = language_model(seed=0), language_model(seed=1), batch_of(data)
    labels = shifted(batch.pop("labels"))
    weight = (labels != -100) / (labels != -100).sum()
    for rows in (slice(0, 3), slice(3, 8)):  # two micro-batches of one step
        inputs = {name: each[rows] for name, each in batch.items()}
        hidden, head = hidden_and_head(student, **inputs)
        with torch.no_grad():
            taught = hidden_and_head(teacher.eval(), **inputs)
        loss = 0.7 * linear.kd(hidden, head, taught, weight=weight[rows])
        (loss + 0.3 * linear.cross_entropy(hidden, head, labels[rows], weight=weight[rows])).backward()
    assert relative_error({name: each.grad for name, each in student.named_parameters()}, gradient) < 1e-6


# --- Which position, which document ---------------------------------------------------------------------------------


@both
def test_a_student_loses_nothing_to_itself_or_to_what_is_stored_of_it(fused: bool, tmp_path: Path) -> None:
    data = texts()
    batch = batch_of(data)
    stored = language_model(seed=0)(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
    late = stored.roll(1, dims=1)  # position t says what t - 1 is to say
    for teacher, lost in [(language_model(seed=0), 0), (lambda _: stored, 0), (lambda _: late, 1)]:
        args = arguments(tmp_path, logging_strategy="steps", logging_steps=1)
        trainer = distilled(tmp_path, data=data, args=args, teacher=teacher, fused=fused)
        assert (trainer.state.log_history[0]["distill"] > 1e-6) == lost


def test_at_every_position() -> None:
    batch = batch_of(texts())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden, head = hidden_and_head(language_model(seed=0), **inputs)
    stored = language_model(seed=0)(**inputs).logits
    assert linear.kd(hidden, head, stored, per_token=True).abs().max() < 1e-5


def packed(data: Any) -> list[dict[str, Tensor]]:
    """All documents in one row, without padding; each has a first token that nothing tells."""
    lengths = [int(row["attention_mask"].sum()) for row in data]
    one = {
        name: torch.cat([row[name][:length] for row, length in zip(data, lengths, strict=True)])
        for name in ("input_ids", "labels")
    }
    return [{**one, "position_ids": torch.cat([torch.arange(length) for length in lengths])}]


@both
def test_packed_documents_are_documents(fused: bool, tmp_path: Path) -> None:
    data = texts(hidden=(2,))
    gradient, parts = by_hand(data)
    args = arguments(tmp_path, per_device_train_batch_size=1, logging_strategy="steps", logging_steps=1)
    trainer = distilled(tmp_path, data=packed(data), args=args, fused=fused)
    assert relative_error(trainer.gradients[0], gradient) < 1e-5
    assert trainer.state.log_history[0]["distill"] == pytest.approx(parts["distill"], rel=1e-5)


def left(data: Any) -> list[dict[str, Tensor]]:
    """The same rows, padded on the left."""
    return [
        {name: each.roll(len(each) - int(row["attention_mask"].sum())) for name, each in row.items()} for row in data
    ]


class Blind(nn.Module):
    """A teacher that looks at all tokens before."""

    def __init__(self) -> None:
        super().__init__()
        self.model = language_model(seed=1)

    def forward(self, input_ids: Tensor) -> Any:
        return self.model(input_ids)


def test_a_teacher_of_another_context_is_refused(tmp_path: Path) -> None:
    for data, column in [(packed(texts()), "position_ids"), (left(texts()), "attention_mask")]:
        args = arguments(tmp_path, per_device_train_batch_size=len(data))
        with pytest.raises(InputError, match=f"'{column}' what a token may look at, and the teacher, a Blind"):
            distilled(tmp_path, data=data, args=args, teacher=Blind())
    found = distilled(tmp_path, teacher=Blind())  # on the right there is nothing that comes too early
    assert relative_error(found.gradients[0], distilled(tmp_path).gradients[0]) < 1e-6


# --- Vocabularies ---------------------------------------------------------------------------------------------------


@both
def test_padding_of_a_head_has_no_part_in_the_loss_to_the_teacher(fused: bool, tmp_path: Path) -> None:
    models = {"student": language_model(seed=0, vocabulary=44), "teacher": language_model(seed=1, vocabulary=48)}
    soft = lambda student, teacher: kd_formula(student[:40], teacher[:40], 1.0)  # noqa: E731
    gradient, _ = next_token_gradient(**models, data=texts(), soft=soft)
    found = distilled(tmp_path, **models, vocabulary=40, fused=fused)
    assert relative_error(found.gradients[0], gradient) < 1e-6
    with pytest.raises(InputError, match=r"teacher has 48 classes and the student 44|give their number as vocabulary"):
        distilled(tmp_path, **models, fused=fused)
    with pytest.raises(InputError, match="vocabulary is 46; give the number of tokens that student"):
        distilled(tmp_path, **models, vocabulary=46, fused=fused)


def test_a_hot_teacher_of_many_tokens_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = lambda seed: language_model(seed=seed, vocabulary=5001, width=4)  # noqa: E731
    for temperature, said in [(2.5, 1), (2.0, 0), (None, 0)]:
        options = {"student": wide(0), "teacher": wide(1), "temperature": temperature}
        distilled(tmp_path, **options)
        assert capsys.readouterr().err.count("2.5 over 5001 tokens") == said


# --- Heads ----------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "opt": {"word_embed_proj_dim": 8, "ffn_dim": 16, "max_position_embeddings": 16},
    "phi": {"partial_rotary_factor": 0.5},  # its head has a bias
    "gemma2": {"final_logit_softcapping": 2.0, "tie_word_embeddings": True},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 16, "logits_soft_cap": 0.25},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 5.0},
    "bloom": {"n_head": 2, "n_layer": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_a_model_makes_its_logits_of_the_hidden_states(kind: str) -> None:
    model = language_model(kind, **KINDS[kind]).eval()
    batch = batch_of(texts())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden, head = hidden_and_head(model, **inputs)
    assert hidden.shape[:2] == batch["input_ids"].shape
    torch.testing.assert_close(head.logits(hidden), model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert head.weight is model.get_output_embeddings().weight


class Loud(type(language_model())):
    """It does something with its logits of which nobody knows."""

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **more: Any) -> Any:
        output = super().forward(input_ids, logits_to_keep=logits_to_keep, **more)
        output.logits = output.logits * 3
        return output


class Bounded(type(language_model())):
    """It bounds its logits, which its configuration does not tell."""

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **more: Any) -> Any:
        output = super().forward(input_ids, logits_to_keep=logits_to_keep, **more)
        output.logits = 30 * (output.logits / 30).tanh()
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bound_that_logits_are_too_small_to_show_is_found(dtype: torch.dtype) -> None:
    ids, config = torch.tensor([[3, 4], [5, 6]]), language_model(initializer_range=0.02).config
    torch.manual_seed(0)
    model = Bounded(config).to(dtype).train()
    assert 0 < model(ids).logits.abs().max() < 1
    with pytest.raises(InputError, match="Bounded makes other logits of its last hidden states than its head does"):
        hidden_and_head(model, input_ids=ids)
    assert all(module.training for module in model.modules())
    torch.manual_seed(0)
    hidden, head = hidden_and_head(model := type(language_model())(config).to(dtype), input_ids=ids)
    torch.testing.assert_close(head.logits(hidden), model(ids).logits)


def test_a_soft_cap_holds_where_logits_have_grown() -> None:
    model = language_model("recurrent_gemma", num_hidden_layers=3, lru_width=16).eval()
    ids = torch.tensor([[3, 4, 5]])
    hidden_and_head(model, input_ids=ids)
    with torch.no_grad():
        model.model.final_norm.weight.fill_(300.0)  # its weights are tied: what the head is given grows
        hidden, head = hidden_and_head(model, input_ids=ids)
        own = model(ids).logits
    assert own.abs().max() > 20
    torch.testing.assert_close(head.logits(hidden), own)


def test_a_soft_cap_of_an_unknown_name_is_refused() -> None:
    model = language_model()
    for key, refused in [("router_logit_softcap", False), ("output_logit_soft_cap", True)]:
        setattr(model.config, key, 30.0)
        if not refused:
            hidden_and_head(model, input_ids=torch.tensor([[3]]))
    with pytest.raises(InputError, match=r"LlamaForCausalLM has output_logit_soft_cap 30\.0.*fused=False"):
        hidden_and_head(model, input_ids=torch.tensor([[3]]))
    model.config.output_logit_soft_cap = None
    hidden_and_head(model, input_ids=torch.tensor([[3]]))


def test_a_model_whose_decoder_is_its_output_matrix_is_refused(tmp_path: Path) -> None:
    student = lambda seed: language_model("modernbert-decoder", seed, cls_token_id=1, sep_token_id=2)  # noqa: E731
    said = r"ModernBertDecoderForCausalLM does not say which of its modules .*\(of Distilled: fused=False\)$"
    with pytest.raises(InputError, match=said):
        hidden_and_head(student(0), input_ids=torch.tensor([[3, 4]]))
    with pytest.raises(InputError, match=said):
        Distilled(Trainer)(model=student(0), args=arguments(tmp_path), teacher=student(1), fused=True)
    distilled(tmp_path, student=student(0), teacher=student(1), fused=False)
    distilled(tmp_path, teacher=student(1), fused=True)  # a teacher's logits are taken whole


class Bare(type(language_model())):
    """What it calls its decoder gives a tensor."""

    def get_decoder(self) -> Any:
        return self.model.norm


def test_a_decoder_that_gives_no_hidden_states_by_name_is_refused() -> None:
    with pytest.raises(InputError, match="Bare does not say which of its modules makes the last hidden states; take"):
        hidden_and_head(Bare(language_model().config), input_ids=torch.tensor([[3, 4]]))


@peft_warns
def test_a_head_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head", "q_proj"])
    with pytest.raises(InputError, match="leave the head without adapter, or take the losses of all logits"):
        hidden_and_head(get_peft_model(language_model(), config), input_ids=torch.tensor([[3]]))
    with pytest.raises(InputError, match="BertForSequenceClassification is no causal language model"):
        hidden_and_head(bert(), input_ids=torch.tensor([[3]]))
    with pytest.raises(InputError, match="Loud makes other logits of its last hidden states than its head does"):
        hidden_and_head(Loud(language_model().config), input_ids=torch.tensor([[3, 4]]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "dkd"}, "fused=True needs one of jsd, kd, ptloss, reverse_kl, skew_kl, ttm, tvd, wttm by name"),
        ({"loss": lambda student, teacher: (student - teacher).sum(-1)}, "fused=True needs one of"),
        ({"label_loss": "focal"}, "fused=True has the cross-entropy to the labels"),
        ({"student": bert(0)}, "BertForSequenceClassification is no causal language model"),
    ],
    ids=["dkd", "function", "labels", "bert"],
)
def test_what_cannot_be_fused_is_said_at_once(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    student = options.pop("student", language_model())
    with pytest.raises(InputError, match=re.escape(said)):
        Distilled(Trainer)(model=student, args=arguments(tmp_path), teacher=language_model(), fused=True, **options)


def test_classes_that_count_in_any_loop() -> None:
    student, teacher = torch.randn(3, 6, requires_grad=True), torch.randn(3, 5)
    labels = torch.tensor([5, 0, -100])
    found = Distillation(nn.Identity(), "kd", temperature=2.0, vocabulary=4, **WEIGHTS)(teacher, student, labels)
    soft = kd_formula(student[:2, :4], teacher[:2, :4], 2.0).mean()
    torch.testing.assert_close(found["loss"], 0.3 * nn.functional.cross_entropy(student, labels) + 0.7 * soft)


def test_the_teacher_of_a_fused_loss_is_asked_in_eval_mode(tmp_path: Path) -> None:
    teacher = language_model(seed=1, attention_dropout=0.5).train()
    before = copy.deepcopy(teacher.state_dict())
    gradient, _ = by_hand(texts())
    assert relative_error(distilled(tmp_path, teacher=teacher, fused=True).gradients[0], gradient) < 1e-6
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())
