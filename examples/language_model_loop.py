"""Distil a language model in a loop of one's own, without ever making all logits: hidden states and heads.

$ python examples/language_model_loop.py
"""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from preceptor.integrations.transformers import hidden_and_head
from preceptor.losses import linear
from preceptor.losses.tokens import shifted

VOCABULARY, LENGTH = 52, 24  # a language of pairs: a small letter is followed by its capital


def documents(rows, seed):
    """Token ids of texts of several lengths, 0 behind their ends; yours come from a tokenizer."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.randint(1, 26, (rows, LENGTH // 2), generator=draw)
    ids = torch.stack([small, small + 26], dim=-1).flatten(1)
    return ids * (torch.arange(LENGTH) < torch.randint(4, LENGTH, (rows, 1), generator=draw))


def model(width):  # yours: AutoModelForCausalLM.from_pretrained(...)
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=VOCABULARY, **sizes))


def train(student, ids, epochs, teacher=None):
    """Steps of 32 rows in two micro-batches; sums over tokens, divided once by their number in the step."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for rows in [rows for _ in range(epochs) for rows in torch.randperm(len(ids)).split(32)]:
        labels = shifted(ids[rows].masked_fill(ids[rows] == 0, -100))  # a position has the token after it
        weight = (labels != -100) / (labels != -100).sum()
        for some in torch.arange(len(rows)).split(16):
            inputs, counts = {"input_ids": ids[rows[some]]}, weight[some]
            hidden, head = hidden_and_head(student, **inputs)
            loss = linear.cross_entropy(hidden, head, labels[some], weight=counts)
            if teacher is not None:
                with torch.no_grad():
                    taught = hidden_and_head(teacher, **inputs)
                loss = 0.1 * loss + 0.9 * linear.kd(hidden, head, taught, weight=counts)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def nats(student, ids):
    hidden, head = hidden_and_head(student, input_ids=ids)
    labels = shifted(ids.masked_fill(ids == 0, -100))
    return (linear.cross_entropy(hidden, head, labels) / (labels != -100).sum()).item()


torch.manual_seed(0)
few, test = documents(256, 0), documents(128, 1)
teacher, student = model(32), model(8)
train(teacher, few, 8)
train(student, few, 8, teacher.eval())
print(f"nats per token: teacher {nats(teacher, test):.2f}, student {nats(student.eval(), test):.2f}, chance 3.95")
