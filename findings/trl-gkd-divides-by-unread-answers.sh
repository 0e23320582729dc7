#!/usr/bin/env bash
# trl 1.16.0 (torch 2.13.0, transformers 5.24.0): GKDTrainer's on-policy loss depends on the length of answers it never reads.
#
# With lmbda=1 the student writes the answers itself, and those of the data set are thrown away. The sum over the tokens that
# were written is divided by num_items_in_batch, though, which Trainer counted before, of the data set's answers. So answers twice
# as long halve loss and gradient. With lmbda between 0 and 1 one run mixes steps of a mean with steps of max_new_tokens / length
# times a mean: the on-policy ones weigh most where references are short (labels, one-word answers). DistillationTrainer, of the
# same release, counts what was written.
#
# Seen, 16 tokens written from one prompt and seed, answers of 2, 4, 16 words:   loss 0.0267, 0.0133, 0.0033
#                                                                               gradient 8.00 : 4.00 : 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 transformers==5.24.0 accelerate==1.15.0 trl==1.16.0
cat >"$folder/see.py" <<'PYTHON'
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl.experimental.gkd import GKDConfig, GKDTrainer

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(32)}, unk_token="w2"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def model(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=32, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes))
    made.generation_config.eos_token_id = None  # each answer that is written has 16 tokens
    return made


def step(words_of_answer):
    talk = [{"role": "user", "content": "w3 w4 w5"}, {"role": "assistant", "content": " ".join(["w6"] * words_of_answer)}]
    args = GKDConfig(
        sys.argv[1], lmbda=1.0, max_new_tokens=16, max_steps=1, per_device_train_batch_size=4, learning_rate=0.0,
        logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        save_strategy="no",
    )
    set_seed(0)
    trainer = GKDTrainer(
        model=model(0), teacher_model=model(1), args=args, train_dataset=Dataset.from_list([{"messages": talk}] * 4),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.state.log_history[0]


found = {length: step(length) for length in (2, 4, 16)}
for length, log in found.items():
    print(f"answers of {length} words, not read: loss {log['loss']:.4f}, gradient {log['grad_norm']:.4f}")
loss, norm = ({length: log[name] for length, log in found.items()} for name in ("loss", "grad_norm"))
print(f"gradient {norm[2] / norm[16]:.2f} : {norm[4] / norm[16]:.2f} : 1")
assert all(abs(each[length] / each[16] - 16 / length) < 0.01 for each in (loss, norm) for length in (2, 4))
PYTHON
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" "$folder/see.py" "$folder/out" 2>&1 | grep -e '^answers' -e '^gradient' -e Error
