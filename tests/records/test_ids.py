"""The ids that a writer knows, held to a set of Python's, and the memory that they take."""

import random
import tracemalloc

import numpy as np
import pytest
import torch

from preceptor.records.ids import Ids
from preceptor.records.tokens import token_ids


@pytest.mark.parametrize("most", [40, 4000])
def test_it_is_the_set_of_what_was_added(most: int) -> None:
    draw = random.Random(most)
    ids, known = Ids(), set[int]()
    assert (len(ids), list(ids), 0 in ids) == (0, [], False)
    for _ in range(60):
        first = draw.randrange(most)
        chunk = draw.sample(range(first, first + 30), draw.randrange(30))
        asked = np.array([draw.randrange(-5, most + 40) for _ in range(50)])
        assert ids.has(asked).tolist() == [number in known for number in asked.tolist()]
        ids.add(np.array(chunk, np.int64))
        known |= set(chunk)
        assert list(ids) == sorted(known)
        assert len(ids) == len(known)
    assert set(ids) == known
    assert most + 40 not in ids


def test_tokens_take_a_byte_each_at_most() -> None:
    """Of rows of 256 positions, cut into documents of 64 and recorded in batches of 8, where a set takes some 90."""
    mask = (np.arange(256) % 64 != 63)[None].repeat(8, 0)
    batches = [token_ids(torch.arange(n, n + 8), torch.from_numpy(mask)).numpy() for n in range(0, 4096, 8)]
    tokens = sum(map(len, batches))
    sizes = {}
    for kind in (Ids, set):
        tracemalloc.start()
        held = kind()
        for batch in batches:
            held.add(batch) if isinstance(held, Ids) else held.update(batch.tolist())
        sizes[kind] = tracemalloc.get_traced_memory()[0] / tokens
        tracemalloc.stop()
        assert len(held) == tokens
    assert sizes[Ids] < 1
    assert sizes[set] > 30
