"""Tiny models of transformers, made from a configuration, and data for them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

CLASSES, LENGTH = 4, 6
SIZES = {"vocab_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert(seed: int = 0, *, tokens: bool = False, classes: int = CLASSES, width: int = 16) -> Any:
    torch.manual_seed(seed)
    kind = BertForTokenClassification if tokens else BertForSequenceClassification
    config = BertConfig(
        hidden_size=width, intermediate_size=2 * width, num_labels=classes, initializer_range=0.5, **SIZES, **NO_DROPOUT
    )
    return kind(config)


def language_model(kind: str = "llama", seed: int = 0, *, vocabulary: int = 40, width: int = 16, **more: Any) -> Any:
    """A causal language model of one layer, of an architecture of transformers."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.5}
    given = {"vocab_size": vocabulary, "num_key_value_heads": 2, "head_dim": width // 2, **sizes, **special, **more}
    for name in NO_DROPOUT_OF_ANY:
        given.setdefault(name, 0.0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given))


NO_DROPOUT_OF_ANY = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout")


def texts(n: int = 8, *, hidden: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rows of tokens of several lengths, padded on the right, whose labels are -100 there, at first and in `hidden`."""
    found = rows(n)
    for row, each in enumerate(found):
        labels = each["input_ids"].masked_fill(each["attention_mask"] == 0, -100)
        labels[: row % 2] = -100
        each["labels"] = torch.full_like(labels, -100) if row in hidden else labels
    return found


def next_token_gradient(
    student: Any, teacher: Any, data: Sequence[dict[str, Any]], *, soft: Callable[[Tensor, Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """As `whole_gradient`, of 0.3 x cross-entropy + 0.7 x `soft` of the token after each, row by row and by hand."""
    hard, softs = [], []
    for row in data:
        ids = row["input_ids"][: int(row["attention_mask"].sum())][None]
        logits, answer = student(input_ids=ids).logits[0], teacher.eval()(input_ids=ids).logits[0].detach()
        for place, label in enumerate(row["labels"].tolist()):
            if label != -100 and place > 0:
                hard.append(-logits[place - 1].log_softmax(-1)[label])
                softs.append(soft(logits[place - 1], answer[place - 1]))
    ce, distill = (torch.stack(each).mean() for each in (hard, softs))
    student.zero_grad()
    (0.3 * ce + 0.7 * distill).backward()
    grads = {name: each.grad.clone() for name, each in student.named_parameters() if each.grad is not None}
    student.zero_grad()
    return grads, {"ce": ce.item(), "distill": distill.item()}


def rows(n: int = 8, *, tokens: bool = False, hidden: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rows of columns; labels of the rows `hidden` are -100, and, of tokens, every third and all padding."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for row in range(n):
        length = LENGTH - row % 3
        mask = (torch.arange(LENGTH) < length).long()
        ids = torch.randint(1, 40, (LENGTH,), generator=generator) * mask
        label = torch.randint(CLASSES, (LENGTH,) if tokens else (), generator=generator)
        if tokens:
            label[(mask == 0) | (torch.arange(LENGTH) % 3 == row % 3)] = -100
        if row in hidden:
            label = torch.full_like(label, -100)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": label})
    return found


def batch_of(found: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in found]) for name in found[0]}


def arguments(folder: Path, kind: type[TrainingArguments] = TrainingArguments, **options: Any) -> Any:
    """Plain gradient descent without schedule, clipping or anything written; the rows in their order."""
    given: dict[str, Any] = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    return kind(output_dir=str(folder), **(given | options))


class Gradients(TrainerCallback):
    """Keeps the gradients of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        bare = getattr(model, "module", model)
        named = {name: each.grad for name, each in bare.named_parameters() if each.grad is not None}
        self.steps.append({name: grad.clone() for name, grad in named.items()})


def trained(kind: type[Trainer], folder: Path, data: Any, student: Any, *, args: Any = None, **options: Any) -> Any:
    """A trainer that has trained, with its gradients in `.gradients`."""
    keeper = Gradients()
    trainer = kind(
        model=student,
        args=arguments(folder) if args is None else args,
        train_dataset=data,
        callbacks=[keeper],
        **options,
    )
    trainer.train()
    trainer.gradients = keeper.steps
    return trainer


def kd_formula(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(p_T, q_T) of each row, spelled out."""
    p, log_q = (teacher / temperature).softmax(-1), (student / temperature).log_softmax(-1)
    return temperature**2 * (p * (p.log() - log_q)).sum(-1)


def whole_gradient(
    student: Any,
    teacher: nn.Module,
    data: Sequence[dict[str, Any]],
    *,
    soft: Callable[[Tensor, Tensor], Tensor],
    ce: float,
    distill: float,
    **ce_options: Any,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient of the mean over all that counts, in one batch, by plain autograd; and the two parts."""
    batch = batch_of(data)
    labels = batch.pop("labels").flatten()
    counts = labels != -100
    logits = student(**batch).logits.flatten(0, -2)[counts]
    with torch.no_grad():
        answer = teacher.eval()(**batch).logits.flatten(0, -2)[counts]
    hard = F.cross_entropy(logits, labels[counts], reduction="none", **ce_options).sum() / counts.sum()
    mean = soft(logits, answer).mean()
    student.zero_grad()
    (ce * hard + distill * mean).backward()
    grads = {name: each.grad.clone() for name, each in student.named_parameters() if each.grad is not None}
    student.zero_grad()
    return grads, {"ce": hard.item(), "distill": mean.item()}


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in found])
    return (difference.norm() / torch.cat([each.flatten() for each in expected.values()]).norm()).item()
