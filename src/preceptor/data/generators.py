"""The global random generators, which the random transforms of others draw from."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(*key: int) -> None:
    """Seed the global generators of torch (CPU only), NumPy and `random` from a hash of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the transforms of others draw from this one
    random.seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Leave the global generators of torch (CPU), NumPy and `random` as they were found."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def next_draws() -> tuple[float, float, float]:
    """What the global generators of torch (CPU), NumPy and `random` would draw next; they stay as they are.

    >>> before = next_draws()
    >>> _ = random.random()
    >>> [one == other for one, other in zip(before, next_draws())]
    [True, True, False]
    """
    with preserved_generators():
        return float(torch.rand(())), float(np.random.random()), random.random()  # noqa: NPY002
