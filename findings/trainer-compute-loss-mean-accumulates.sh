#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0, accelerate 1.15.0): an overridden compute_loss that returns a mean is summed over
# micro-batches.
#
# Where the model's forward takes keyword arguments (all current models do), Trainer leaves the division by the number of
# micro-batches to the loss. A compute_loss of one's own that returns the mean of its micro-batch, the common way to add a
# distillation term, then gives a gradient that is as many times too large as there are micro-batches, without a word. With the
# class attribute loss_is_scaled_for_ga = False Trainer divides again; True is for a loss that divides by num_items_in_batch.
#
# Seen, 8 rows in one step, gradient norm over that of one batch of 8:   4 micro-batches: 4.00   declared False: 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.0
cat >"$folder/see.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

config = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)
rows = [{"input_ids": torch.arange(5) + i, "labels": i % 2} for i in range(8)]


class Mean(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)


class Declared(Mean):
    loss_is_scaled_for_ga = False


def norm(kind, micro):
    set_seed(0)
    args = TrainingArguments(
        sys.argv[1], per_device_train_batch_size=8 // micro, gradient_accumulation_steps=micro, max_steps=1,
        learning_rate=0.0, logging_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
    )
    trainer = kind(model=BertForSequenceClassification(config), args=args, train_dataset=rows)
    trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


whole = norm(Mean, 1)
plain, declared = norm(Mean, 4) / whole, norm(Declared, 4) / whole
print(f"4 micro-batches: {plain:.2f}   declared False: {declared:.2f}")
raise SystemExit(not (abs(plain - 4) < 0.01 and abs(declared - 1) < 0.01))
PYTHON
"$folder/venv/bin/python" "$folder/see.py" "$folder/out"
