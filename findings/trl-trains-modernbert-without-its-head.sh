#!/usr/bin/env bash
# trl 1.16.0 (torch 2.13.0, transformers 5.24.0): its trainers take for a ModernBERT decoder's logits what the model does not say.
#
# SFTTrainer (by default) and DistillationTrainer never ask for logits: they multiply the backbone's last hidden states by the
# matrix of get_output_embeddings(). In ModernBertDecoderForCausalLM a dense layer, an activation and a norm lie before that
# matrix. They are left out and stay as they were: the loss that is logged goes down, and the model that is saved, which does go
# through them, gets worse. DistillationTrainer finds two models equal that differ in these layers alone. Nothing is said, and
# the docstring of trl's fused head promises the loss that the model's own forward computes. By the same formula BERT's family
# as decoders is alike, and RecurrentGemma and xLSTM lose their soft cap, which their configurations call otherwise.
#
# Seen, 60 steps on 4 rows, loss logged and the model's own:   llama 0.002, 0.002   modernbert-decoder 0.012, 4.704 (before: 3.487)
#       two models that differ in the head, divergence logged:   llama 8.4772   modernbert-decoder 0.0000 (probabilities 0.03 apart)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 transformers==5.24.0 accelerate==1.15.0 trl==1.16.0
cat >"$folder/see.py" <<'PYTHON'
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(32)}, unk_token="w2"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", padding_side="left")
rows = torch.arange(2, 26).reshape(4, 6).repeat(1, 2)
COMMON = {
    "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none",
    "gradient_checkpointing": False, "disable_tqdm": True, "save_strategy": "no", "lr_scheduler_type": "constant",
}


def model(kind):
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=32, pad_token_id=0, **sizes, **special))


@torch.no_grad()
def own_loss(made):
    return float(made.eval()(input_ids=rows, labels=rows).loss)


def learn(kind):
    """The model's own loss, that logged after 60 steps, and the model's own then."""
    made = model(kind)
    before, data = own_loss(made), Dataset.from_dict({"input_ids": rows.tolist()})
    args = SFTConfig(sys.argv[1], max_steps=60, learning_rate=1e-2, **COMMON)
    trainer = SFTTrainer(model=made, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return before, [log["loss"] for log in trainer.state.log_history if "loss" in log][-1], own_loss(made)


def tell_apart(kind):
    """The divergence that is logged of two models, and how far apart their probabilities are at most."""
    student, teacher = model(kind), model(kind)
    with torch.no_grad():
        for name, each in teacher.named_parameters():
            if name.startswith("lm_head"):  # of Llama the matrix itself, of ModernBERT what lies before it
                each.add_(torch.randn_like(each))
        said = [each.eval()(input_ids=rows).logits.softmax(-1) for each in (student, teacher)]
    args = DistillationConfig(sys.argv[1], max_steps=1, learning_rate=0.0, max_completion_length=8, **COMMON)
    trainer = DistillationTrainer(
        model=student, teacher_model=teacher, args=args, train_dataset=Dataset.from_dict({"prompt": ["w3"] * 4}),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], float((said[0] - said[1]).abs().max())


for kind, right in {"llama": True, "modernbert-decoder": False}.items():
    before, logged, after = learn(kind)
    divergence, apart = tell_apart(kind)
    print(f"{kind}: own loss untrained {before:.3f}, logged at last {logged:.3f}, own then {after:.3f}")
    print(f"{kind}: divergence of two models {divergence:.4f}, probabilities {apart:.2f} apart")
    assert logged < 0.1 and apart > 0.01
    assert abs(after - logged) < 0.1 and divergence > 0.1 if right else after > before and divergence < 1e-6
PYTHON
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" -W ignore "$folder/see.py" "$folder/out" 2>&1 | grep -e '^llama' -e '^modernbert' -e Error
