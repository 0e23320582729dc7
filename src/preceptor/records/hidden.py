"""The form of a language model's own: what its head is given, and the head once for all rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.linear import Head
from preceptor.records.beside import read_beside, write_beside
from preceptor.records.targets import DenseTargets, Scalars

HEAD = "head"
"""Of the files that hold a record's head: ``head.safetensors``, listed by ``head.json``."""


@dataclass(frozen=True)
class Hidden:
    """A language model's last hidden states, of which its head makes the log-probabilities of all tokens when they are
    read: exact up to `dtype`, at any temperature.

    The smallest exact form where the width H is far below the vocabulary V: 2 H bytes a token in half precision, of
    which dense log-probabilities take 2 V, and once for the record 4 V H bytes of the head in float32. A model with
    H = 576 and V = 49,152 takes 1,152 bytes a token in place of 98,304, and a head of 113 MB.

    Args:
        dtype: ``float16``, ``bfloat16`` or ``float32``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    kind: Literal["hidden"] = "hidden"
    arrays: ClassVar[tuple[str, ...]] = ("hidden",)

    def check(self, num_classes: int) -> None:
        """Refuse a number of classes that the form is not for."""

    def pack(self, states: Tensor, uniform: Tensor, scalars: Scalars) -> dict[str, Tensor]:
        """What is stored of hidden states (B, H).

        Raises:
            InputError: a number that the dtype cannot hold.
        """
        stored = states.to(getattr(torch, self.dtype))
        if not bool(stored.isfinite().all()):
            largest = float(states.abs().max())
            raise InputError(
                f"hidden states reach {largest:.4g}, which {self.dtype} cannot hold; record with dtype bfloat16 or "
                "float32"
            )
        return {"hidden": stored}


def write_head(folder: Path, head: Head) -> None:
    """Write a record's head, once.

    Raises:
        InputError: another head is there.
    """
    tensors = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
    write_beside(folder, HEAD, tensors, {"scale": float(head.scale), "softcap": head.softcap})


def read_head(folder: Path) -> Head:
    """A record's head, on the CPU and as it was stored.

    Raises:
        InputError: it is missing or damaged.
    """
    found = read_beside(folder, HEAD)
    if found is None:
        raise InputError(f"'{folder}' has hidden states and no '{HEAD}.json', which lists their head; record anew")
    tensors, metadata = found
    return Head(tensors["weight"], tensors.get("bias"), metadata["scale"], metadata["softcap"])


def in_float32(head: Head, device: torch.device | str) -> Head:
    """A head as targets are made with it."""
    bias = None if head.bias is None else head.bias.to(device, torch.float32)
    return Head(head.weight.to(device, torch.float32), bias, head.scale, head.softcap)


def targets_of(arrays: Mapping[str, Tensor], head: Head) -> DenseTargets:
    """What was stored, as targets, where the head is."""
    states = arrays["hidden"].to(head.weight.device, torch.float32)
    return DenseTargets(head.logits(states).log_softmax(-1))
