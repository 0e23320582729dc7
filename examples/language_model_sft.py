"""Distil a language model in the SFTTrainer of TRL: from texts, packed into rows, by hidden states and heads.

$ python examples/language_model_sft.py
"""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from preceptor.integrations.transformers import Distilled

# Sums of two digits, and a tokenizer of words; yours comes from AutoTokenizer.from_pretrained(...).
WORDS = ["[PAD]", "[END]", "[UNK]", "and", "make", *map(str, range(19))]
core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
special = {"pad_token": "[PAD]", "eos_token": "[END]", "unk_token": "[UNK]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)


def texts(n, seed):
    pairs = torch.randint(10, (n, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return Dataset.from_list([{"text": f"{one} and {other} make {one + other}"} for one, other in pairs])


def model(width):  # yours: AutoModelForCausalLM.from_pretrained(...)
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(WORDS), **sizes))


def arguments(epochs):
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    return SFTConfig(
        "language_model",
        bf16=False,
        max_length=32,
        per_device_train_batch_size=16,
        num_train_epochs=epochs,
        learning_rate=1e-2,
        **quiet,
    )


torch.manual_seed(0)
train, test = texts(512, seed=0), texts(64, seed=1)
given = {"train_dataset": train, "eval_dataset": test, "processing_class": tokenizer}
taught = SFTTrainer(model=model(32), args=arguments(6), **given)
taught.train()
student = Distilled(SFTTrainer)(
    model=model(8), args=arguments(6), teacher=taught.model, ce_weight=0.1, distill_weight=0.9, fused=True, **given
)
student.train()
nats = [trainer.evaluate()["eval_loss"] for trainer in (taught, student)]
print(f"nats per token: teacher {nats[0]:.2f}, student {nats[1]:.2f}")
