"""What each of two processes does: started by torchrun, `python -m integrations.two_processes FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from transformers import Trainer

from integrations.toys import arguments, bert, rows, trained
from preceptor.integrations.transformers import Distilled

SHARES = [(4, 1), (2, 2), (1, 4)]
"""Rows of a micro-batch and micro-batches, of each process: of eight rows in all."""


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for tokens in (False, True):
        for size, accumulate in SHARES:
            args = arguments(
                folder,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulate,
                logging_strategy="steps",
                logging_steps=1,
                ddp_backend="gloo",
            )
            data = rows(tokens=tokens, hidden=(2,))
            trainer = trained(
                Distilled(Trainer),
                folder,
                data,
                bert(0, tokens=tokens),
                args=args,
                teacher=bert(1, tokens=tokens),
                temperature=4.0,
                ce_weight=0.3,
                distill_weight=0.7,
            )
            if trainer.is_world_process_zero():
                name = f"{tokens}-{size}-{accumulate}"
                torch.save(trainer.gradients[0], folder / f"{name}.pt")
                (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history[0]))


if __name__ == "__main__":
    main()
