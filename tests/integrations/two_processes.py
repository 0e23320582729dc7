"""What each of two processes does: started by torchrun, `python -m integrations.two_processes FOLDER`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from integrations.toys import arguments, bert, language_model, rows, texts, trained
from preceptor.integrations.transformers import Distilled

SHARES = [(4, 1), (2, 2), (1, 4)]
"""Rows of a micro-batch and micro-batches, of each process: of eight rows in all."""


KINDS = ["rows", "tokens", "texts", "fused"]


def models(kind: str) -> Any:
    """Student, teacher, data and what else is asked for."""
    if kind in ("texts", "fused"):
        return language_model(seed=0), language_model(seed=1), texts(hidden=(2,)), {"fused": kind == "fused"}
    tokens = kind == "tokens"
    return bert(0, tokens=tokens), bert(1, tokens=tokens), rows(tokens=tokens, hidden=(2,)), {}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for kind in KINDS:
        for size, accumulate in SHARES:
            args = arguments(
                folder,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulate,
                logging_strategy="steps",
                logging_steps=1,
                ddp_backend="gloo",
            )
            student, teacher, data, more = models(kind)
            options = {"teacher": teacher, "temperature": 4.0, "ce_weight": 0.3, "distill_weight": 0.7, **more}
            trainer = trained(Distilled(Trainer), folder, data, student, args=args, **options)
            if trainer.is_world_process_zero():
                name = f"{kind}-{size}-{accumulate}"
                torch.save(trainer.gradients[0], folder / f"{name}.pt")
                (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history[0]))


if __name__ == "__main__":
    main()
