"""Randomness in named streams, each a hash of (seed, stream, counters): nothing to save, nothing to shift.

A draw added to one stream moves no other, two runs that share a seed share every stream, and a resumed run
needs its counters only.
"""

import hashlib
from collections.abc import Mapping
from typing import get_args

import torch

from preceptor.recipe import Stream

STREAMS: tuple[Stream, ...] = get_args(Stream)


class Streams:
    """The named streams of one run.

    Args:
        seed: the seed of every stream that `overrides` does not name.
        overrides: another seed for some streams, e.g. ``{"initialization": 7}``.

    >>> Streams(0).seed("order", 3) == Streams(1, {"order": 0}).seed("order", 3)
    True
    """

    def __init__(self, seed: int, overrides: Mapping[Stream, int] | None = None) -> None:
        self.seeds: dict[Stream, int] = dict.fromkeys(STREAMS, seed) | dict(overrides or {})

    def seed(self, stream: Stream, *counters: int) -> int:
        """A 63-bit seed of `stream` at `counters` (an epoch, a step)."""
        text = "/".join(map(str, (self.seeds[stream], stream, *counters)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def generator(self, stream: Stream, *counters: int) -> torch.Generator:
        """A CPU generator of `stream` at `counters`."""
        return torch.Generator().manual_seed(self.seed(stream, *counters))
