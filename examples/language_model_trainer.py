"""Distil a language model in the Trainer of transformers; TRL's SFTTrainer is distilled by the same line.

$ python examples/language_model_trainer.py
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Trainer
from transformers import DataCollatorForLanguageModeling as Padding
from transformers import TrainingArguments as Arguments

from preceptor.integrations.transformers import Distilled, same_vocabulary

# Sentences of a few words, and a tokenizer of them; yours comes from AutoTokenizer.from_pretrained(...).
WORDS = ["a", "the", "small", "old", "dog", "cat", "bird", "sees", "hears", "follows"]
core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def texts(n, seed):
    pick = torch.Generator().manual_seed(seed)
    draw = lambda pool: pool[torch.randint(len(pool), (), generator=pick)]  # noqa: E731
    for row in range(n):
        subject, other = ([draw(WORDS[:2]), *WORDS[2 : 2 + row % 3], draw(WORDS[4:7])] for _ in range(2))
        yield tokenizer(" ".join([*subject, draw(WORDS[7:]), *other]), return_token_type_ids=False)


def model(width, rows):  # yours: AutoModelForCausalLM.from_pretrained(...); heads may have more rows than tokens
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=rows, **sizes))


def arguments(epochs):
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    return Arguments(
        "language_model", per_device_train_batch_size=16, num_train_epochs=epochs, learning_rate=1e-2, **quiet
    )


torch.manual_seed(0)
train, test = list(texts(256, seed=0)), list(texts(64, seed=1))
given = {"train_dataset": train, "data_collator": Padding(tokenizer, mlm=False)}  # labels -100 where there is padding
taught = Trainer(model=model(32, rows=16), args=arguments(6), **given)
taught.train()
student = Distilled(Trainer)(  # or Distilled(SFTTrainer)
    model=model(8, rows=12),
    args=arguments(10),
    teacher=taught.model,
    vocabulary=same_vocabulary(tokenizer, tokenizer),  # of the student, of the teacher
    fused=True,  # no logits but those of a few hundred tokens at a time
    **given,
)
student.train()
nats = [trainer.evaluate(test)["eval_loss"] for trainer in (taught, student)]
print(f"nats per token: teacher {nats[0]:.2f}, student {nats[1]:.2f}")
