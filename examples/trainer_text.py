"""Distil a text classifier in the Trainer of transformers: a BERT teacher, a smaller BERT student.

$ python examples/trainer_text.py
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast, Trainer
from transformers import DataCollatorWithPadding as Padding
from transformers import TrainingArguments as Arguments

from preceptor.integrations.transformers import Distilled

# Sentences of two kinds, and a tokenizer of their words; yours come from AutoTokenizer.from_pretrained(...).
WORDS = {"good": "fine great lovely superb warm", "bad": "dull awful broken cold grim"}
COMMON = ["the", "film", "plot", "actor", "was", "and", "very"]
words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *COMMON, *" ".join(WORDS.values()).split()])}
core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def texts(n, seed):
    pick = torch.Generator().manual_seed(seed)
    draw = lambda pool: pool[torch.randint(len(pool), (), generator=pick)]  # noqa: E731
    for row in range(n):
        kind = list(WORDS.values())[row % 2].split()
        text = " ".join(["the", draw(COMMON), "was", *(draw(kind + COMMON) for _ in range(2 + row % 5))])
        yield {**tokenizer(text, return_token_type_ids=False), "labels": row % 2}


def bert(width):  # yours: AutoModelForSequenceClassification.from_pretrained(...)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": width, "hidden_size": width}
    config = BertConfig(vocab_size=len(words), id2label=dict(enumerate(WORDS)), **sizes)
    return AutoModelForSequenceClassification.from_config(config)


def arguments(epochs):
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    return Arguments(
        "trainer_text", per_device_train_batch_size=16, num_train_epochs=epochs, learning_rate=3e-3, **quiet
    )


def accuracy(trainer):
    found = trainer.predict(test)
    return (found.predictions.argmax(-1) == found.label_ids).mean()


torch.manual_seed(0)
train, test = list(texts(128, seed=0)), list(texts(100, seed=1))
given = {"train_dataset": train, "data_collator": Padding(tokenizer)}
taught = Trainer(model=bert(64), args=arguments(6), **given)
taught.train()
student = Distilled(Trainer)(
    model=bert(8), args=arguments(20), teacher=taught.model, loss="wttm", temperature=2.0, **given
)
student.train()
print(f"accuracy of the teacher {accuracy(taught):.2f}, of the student {accuracy(student):.2f}")
