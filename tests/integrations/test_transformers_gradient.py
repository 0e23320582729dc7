"""However a step is shared out over micro-batches and processes, the Trainer's gradient is that of the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)

from integrations.toys import (
    arguments,
    batch_of,
    bert,
    kd_formula,
    next_token_gradient,
    relative_error,
    rows,
    trained,
    whole_gradient,
)
from integrations.two_processes import KINDS, SHARES, models
from preceptor.integrations.transformers import Distilled

TESTS = Path(__file__).parents[1]
WEIGHTS = {"ce_weight": 0.3, "distill_weight": 0.7}


def expected(data: Any, *, tokens: bool = False, **options: Any) -> Any:
    soft = lambda student, teacher: kd_formula(student, teacher, 4.0)  # noqa: E731
    return whole_gradient(
        bert(0, tokens=tokens), bert(1, tokens=tokens), data, soft=soft, ce=0.3, distill=0.7, **options
    )


def distilled(folder: Path, data: Any, *, tokens: bool = False, student: Any = None, **options: Any) -> Any:
    student = bert(0, tokens=tokens) if student is None else student
    given = {"teacher": bert(1, tokens=tokens), "temperature": 4.0, **WEIGHTS, **options}
    return trained(Distilled(Trainer), folder, data, student, **given)


# The last: nine rows asked for in three micro-batches, of which there are eight.
@pytest.mark.parametrize(("size", "accumulate"), [(8, 1), (4, 2), (2, 4), (1, 8), (3, 3)])
@pytest.mark.parametrize("tokens", [False, True])
def test_accumulated_gradient_is_that_of_the_whole_batch(
    tokens: bool, size: int, accumulate: int, tmp_path: Path
) -> None:
    data = rows(tokens=tokens, hidden=(2,))
    gradient, parts = expected(data, tokens=tokens)
    args = arguments(
        tmp_path,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulate,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer = distilled(tmp_path, data, tokens=tokens, args=args)
    assert relative_error(trainer.gradients[0], gradient) < 1e-6
    logged = trainer.state.log_history[0]
    assert {name: logged[name] for name in parts} == pytest.approx(parts, rel=1e-5)
    assert logged["loss"] == pytest.approx(0.3 * parts["ce"] + 0.7 * parts["distill"], rel=1e-5)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "integrations.two_processes", str(folder)]
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize(("size", "accumulate"), SHARES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_gradient_of_the_whole_batch(
    kind: str, size: int, accumulate: int, two_processes: Path
) -> None:
    if kind in ("texts", "fused"):
        soft = lambda student, teacher: kd_formula(student, teacher, 4.0)  # noqa: E731
        student, teacher, data, _ = models(kind)
        gradient, parts = next_token_gradient(student, teacher, data, soft=soft)
    else:
        gradient, parts = expected(rows(tokens=kind == "tokens", hidden=(2,)), tokens=kind == "tokens")
    found = torch.load(two_processes / f"{kind}-{size}-{accumulate}.pt", weights_only=True)
    assert relative_error(found, gradient) < 1e-6
    logged = json.loads((two_processes / f"{kind}-{size}-{accumulate}.json").read_text())
    assert {name: logged[name] for name in parts} == pytest.approx(parts, rel=1e-5)


def test_parts_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    data = rows(32)
    args = arguments(
        tmp_path, learning_rate=0.0, max_steps=4, logging_strategy="steps", logging_steps=2, weight_decay=0.0
    )
    trainer = distilled(tmp_path, data, args=args)
    steps = [expected(data[start : start + 8])[1] for start in (0, 8, 16, 24)]
    check_means(trainer, [steps[:2], steps[2:]])
    trainer.args.max_steps = 3  # the third is not logged, and must not be in the next training's first
    trainer.train()
    check_means(trainer, [steps[:2]])
    trainer.train()
    check_means(trainer, [steps[:2]])


def check_means(trainer: Any, windows: Any) -> None:
    for log, (first, second) in zip(trainer.state.log_history, windows, strict=False):
        means = {name: (first[name] + second[name]) / 2 for name in first}
        assert {name: log[name] for name in means} == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_labels_may_have_a_loss_of_their_own(named: bool, tmp_path: Path) -> None:
    data, weight = rows(hidden=(2,)), torch.tensor([1.0, 2.0, 3.0, 4.0])
    if named:
        gradient, _ = expected(data, label_smoothing=0.2)
        options = {"label_loss": {"name": "label_smoothing", "smoothing": 0.2}}
    else:
        gradient, _ = expected(data, weight=weight)
        options = {"label_loss": torch.nn.CrossEntropyLoss(weight=weight, reduction="none")}
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    assert relative_error(distilled(tmp_path, data, args=args, **options).gradients[0], gradient) < 1e-6


def test_label_smoothing_factor_smooths_the_labels(tmp_path: Path) -> None:
    data = rows(hidden=(2,))
    gradient, _ = expected(data, label_smoothing=0.1)
    args = arguments(tmp_path, label_smoothing_factor=0.1, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert relative_error(distilled(tmp_path, data, args=args).gradients[0], gradient) < 1e-6


def test_without_labels_the_teacher_alone_is_learned_from(tmp_path: Path) -> None:
    data = rows()
    gradient, _ = whole_gradient(
        bert(0), bert(1), data, soft=lambda student, teacher: kd_formula(student, teacher, 4.0), ce=0.0, distill=0.7
    )
    bare = [{name: value for name, value in row.items() if name != "labels"} for row in data]
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    assert relative_error(distilled(tmp_path, bare, args=args, ce_weight=0.0).gradients[0], gradient) < 1e-6


# PEFT asks for what transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_peft_learn_alone(tmp_path: Path) -> None:
    def adapted() -> Any:
        torch.manual_seed(3)
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False)
        return get_peft_model(bert(0), config)

    data = rows(hidden=(2,))
    gradient, _ = whole_gradient(
        adapted(), bert(1), data, soft=lambda student, teacher: kd_formula(student, teacher, 4.0), ce=0.3, distill=0.7
    )
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    trainer = distilled(tmp_path, data, args=args, student=adapted())
    assert all("lora" in name or "modules_to_save" in name for name in trainer.gradients[0])
    assert relative_error(trainer.gradients[0], gradient) < 1e-6


def language_model(llama: bool, seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 40, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2}
    if llama:
        more = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(**sizes, **more, num_key_value_heads=2))
    more = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, **more, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


@pytest.mark.parametrize("llama", [True, False])  # of the other, Trainer itself counts one label a row too many
def test_labels_of_a_language_model_are_shifted(llama: bool, tmp_path: Path) -> None:
    data = [{**row, "labels": row["input_ids"].masked_fill(row["attention_mask"] == 0, -100)} for row in rows()]
    batch = batch_of(data)
    labels = batch.pop("labels")[:, 1:]
    student, teacher, counts = language_model(llama, 0), language_model(llama, 1), labels != -100
    logits = student(**batch).logits[:, :-1][counts]
    answer = teacher.eval()(**batch).logits[:, :-1][counts].detach()
    (0.3 * F.cross_entropy(logits, labels[counts]) + 0.7 * kd_formula(logits, answer, 4.0).mean()).backward()
    gradient = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    trainer = distilled(tmp_path, data, args=args, student=language_model(llama, 0), teacher=teacher)
    assert relative_error(trainer.gradients[0], gradient) < 1e-6


@pytest.mark.parametrize("given", [True, False])  # whether the batch brings what the decoder reads
def test_a_decoder_reads_the_labels_before_its_own(given: bool, tmp_path: Path) -> None:
    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        sizes = {"vocab_size": 40, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))

    data = rows()
    for row in data:
        row["labels"] = row["input_ids"].flip(0).masked_fill(row["attention_mask"] == 0, -100)
    before = [torch.cat([torch.zeros(1, dtype=torch.int64), row["labels"][:-1].clamp(min=0)]) for row in data]
    batch = batch_of(data)
    labels = batch.pop("labels")
    student, teacher, counts = model(0), model(1), labels != -100
    logits, answer = (each(**batch, decoder_input_ids=torch.stack(before)).logits for each in (student, teacher.eval()))
    soft = kd_formula(logits[counts], answer[counts].detach(), 4.0).mean()
    (0.3 * F.cross_entropy(logits[counts], labels[counts]) + 0.7 * soft).backward()
    gradient = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
    if given:
        data = [{**row, "decoder_input_ids": first} for row, first in zip(data, before, strict=True)]
    args = arguments(tmp_path, Seq2SeqTrainingArguments, per_device_train_batch_size=3, gradient_accumulation_steps=3)
    options = {"teacher": teacher, "temperature": 4.0, **WEIGHTS}
    trainer = trained(Distilled(Seq2SeqTrainer), tmp_path, data, model(0), args=args, **options)
    assert relative_error(trainer.gradients[0], gradient) < 1e-6
