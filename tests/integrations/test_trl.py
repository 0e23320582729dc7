"""TRL's SFTTrainer, distilled: what it makes of texts is learned from a teacher, packed or padded."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from integrations.toys import (
    Gradients,
    arguments,
    kd_formula,
    language_model,
    next_token_gradient,
    relative_error,
    texts,
)
from preceptor.integrations.transformers import Distilled

# TRL asks for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6.*:FutureWarning")
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({f"w{n}": n for n in range(40)}, "w3")), pad_token="w0", eos_token="w2"
)


def ragged() -> Any:
    """Tokens and labels of texts of several lengths, as SFTTrainer's data sets have them once prepared."""
    found = []
    for row in texts(hidden=(2,)):
        length = int(row["attention_mask"].sum())
        found.append({name: row[name][:length].tolist() for name in ("input_ids", "labels")})
    return Dataset.from_list(found)


def sft(folder: Path, *, fused: bool, data: Any = None, **options: Any) -> Any:
    config = arguments(folder, SFTConfig, bf16=False, **options)
    keeper = Gradients()
    trainer = Distilled(SFTTrainer)(
        model=language_model(seed=0),
        args=config,
        train_dataset=ragged() if data is None else data,
        processing_class=TOKENIZER,
        callbacks=[keeper],
        teacher=language_model(seed=1),
        ce_weight=0.3,
        distill_weight=0.7,
        fused=fused,
    )
    trainer.train()
    trainer.gradients = keeper.steps
    return trainer


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shares", [(8, 1), (3, 3)])
def test_the_gradient_is_that_of_the_whole_batch(shares: tuple[int, int], fused: bool, tmp_path: Path) -> None:
    soft = lambda student, teacher: kd_formula(student, teacher, 1.0)  # noqa: E731
    models = {"student": language_model(seed=0), "teacher": language_model(seed=1)}
    gradient, parts = next_token_gradient(**models, data=texts(hidden=(2,)), soft=soft)
    size, accumulate = shares
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
    trainer = sft(tmp_path, fused=fused, logging_strategy="steps", logging_steps=1, **options)
    assert relative_error(trainer.gradients[0], gradient) < 1e-6
    logged = trainer.state.log_history[0]
    assert {name: logged[name] for name in parts} == pytest.approx(parts, rel=1e-5)
    assert 0 <= logged["mean_token_accuracy"] <= 1  # its own measures are still there
    assert trainer.evaluate(ragged())["eval_loss"] > 0
