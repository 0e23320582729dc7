"""What each of two processes does: `python -m integrations.two_processes FOLDER` imports all that, then forks them."""

import json
import os
import signal
import socket
import sys
import traceback
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


def forked(rank: int, port: int) -> int:
    """Start one of the two, in the surroundings that torchrun would give it; its number."""
    if number := os.fork():
        return number
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        main()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def both() -> None:
    """Start both and wait for them; one that fails takes the other with it, which would wait for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {forked(rank, port) for rank in (0, 1)}
    while running:
        number, status = os.wait()
        running.remove(number)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


if __name__ == "__main__":
    both()
