#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0, accelerate 1.15.0): Trainer averages GPT-2's loss over labels that its loss does not use.
#
# A causal model's loss speaks of labels[:, 1:]. Trainer divides the sum by the number of labels of the whole step, and knows
# that the first of each row does not count where `model.loss_type` is "ForCausalLM". GPT2LMHeadModel has the same loss
# function but loss_type None: all labels are counted, and loss and gradient are too small, the more so the shorter the rows
# are. LlamaForCausalLM is counted right.
#
# Seen, rows of 5 tokens:   GPT2LMHeadModel 0.800 of the mean over its predictions   LlamaForCausalLM 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.0
cat >"$folder/see.py" <<'PYTHON'
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

rows = [{"input_ids": row, "labels": row} for row in torch.arange(40).reshape(8, 5) % 30]
configs = {
    GPT2LMHeadModel: GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=30, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    LlamaForCausalLM: LlamaConfig(
        num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2, vocab_size=30
    ),
}
found = {}
for kind, config in configs.items():
    set_seed(0)
    model = kind(config)
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}
    with torch.no_grad():
        mean = float(model(**batch).loss)  # over the predictions
    args = TrainingArguments(
        sys.argv[1], per_device_train_batch_size=8, max_steps=1, learning_rate=0.0, logging_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no",
    )
    trainer = Trainer(model=model, args=args, train_dataset=rows)
    trainer.train()
    found[kind.__name__] = trainer.state.log_history[0]["loss"] / mean
    print(f"{kind.__name__}: loss_type {model.loss_type}, trained loss / mean over predictions {found[kind.__name__]:.3f}")
raise SystemExit(not (abs(found["GPT2LMHeadModel"] - 0.8) < 1e-3 and abs(found["LlamaForCausalLM"] - 1) < 1e-3))
PYTHON
"$folder/venv/bin/python" "$folder/see.py" "$folder/out"
