"""Disjoint parts that look alike."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from preceptor.data.split import checked_pools, pooled_split, stratified_split
from preceptor.errors import InputError

LABELS = torch.arange(120) % 4


def split(sizes, labels=LABELS, seed=0):
    return stratified_split(labels, sizes, torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    shares=st.lists(st.floats(0.05, 0.45), min_size=1, max_size=2),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint_complete_and_balanced(counts, shares, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    sizes = {f"part{i}": round(share * len(labels)) for i, share in enumerate(shares)}
    assume(all(size > 0 for size in sizes.values()))
    try:
        parts = split({**sizes, "rest": None}, labels, seed)
    except InputError:  # a part so small that it would hold one class
        assume(False)
    assert {name: len(parts[name]) for name in sizes} == sizes
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(labels)))
    left = torch.tensor(counts)
    for index in parts.values():
        taken = torch.bincount(labels[index], minlength=len(counts))
        assert ((taken - len(index) * left / left.sum()).abs() < 1 + 1e-4).all()
        left = left - taken


def test_equal_classes_are_shared_equally():
    parts = split({"train": 0.5, "held_out": 20, "rest": None})
    assert {name: torch.bincount(LABELS[index]).tolist() for name, index in parts.items()} == {
        "train": [15] * 4,
        "held_out": [5] * 4,
        "rest": [10] * 4,
    }
    assert all(torch.equal(index, index.sort().values) for index in parts.values())


def test_the_generator_decides():
    assert torch.equal(split({"a": 40})["a"], split({"a": 40})["a"])
    assert not torch.equal(split({"a": 40})["a"], split({"a": 40}, seed=1)["a"])


def test_a_part_does_not_depend_on_those_that_follow():
    assert torch.equal(split({"a": 41, "b": 10})["a"], split({"a": 41, "b": 37, "rest": None})["a"])


def test_odd_samples_favour_no_class():
    """Over many draws each class is as often the one that gets the sample too many."""
    extra = sum(torch.bincount(LABELS[split({"a": 41}, seed=seed)["a"]]) - 10 for seed in range(400))
    assert (extra > 60).all()


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"a": 0}, "part 'a' has size 0"),
        ({"a": -3}, "part 'a' has size -3"),
        ({"a": 1.5}, r"part 'a' has size 1.5 of 120 samples"),
        ({"a": float("nan")}, "part 'a' has size nan"),
        ({"a": 0.001}, r"part 'a' has size 0.001 of 120"),
        ({"a": 1}, "part 'a' with 1 samples holds one class only"),
        ({"a": 100, "b": 0.5}, r"need 160 samples \(a 100, b 60\) but the data set has 120"),
        ({"a": 120, "b": None}, "nothing is left for part 'b'"),
        ({"a": None, "b": None}, "parts a, b all ask for the rest"),
    ],
)
def test_refused(sizes, sentence):
    with pytest.raises(InputError, match=sentence):
        split(sizes)


def test_one_class_data_are_refused():
    with pytest.raises(InputError, match="one class only"):
        split({"a": None}, torch.zeros(10, dtype=torch.int64))


POOL = torch.arange(100, 120)


def pooled(sizes, pools, seed=0):
    return pooled_split(LABELS, sizes, checked_pools(pools, 120), torch.Generator().manual_seed(seed))


def test_without_pools_nothing_changes():
    sizes = {"heldout": 20, "test": 0.25, "train": None}
    parts, expected = pooled(sizes, {}), split(sizes)
    assert all(torch.equal(parts[name], expected[name]) for name in sizes)
    assert list(parts) == list(expected)


def test_a_part_comes_from_its_pool_and_the_others_from_outside_it():
    parts = pooled({"heldout": None, "transfer": 30, "train": None}, {"heldout": POOL})
    assert torch.equal(parts["heldout"], POOL)
    assert torch.equal(torch.cat([parts["train"], parts["transfer"]]).sort().values, torch.arange(100))
    assert torch.bincount(LABELS[parts["transfer"]]).max() <= 8


def test_two_parts_share_a_pool():
    parts = pooled({"heldout": 8, "train": None, "test": None}, {"heldout": POOL, "test": POOL.flip(0)})
    assert torch.equal(torch.cat([parts["heldout"], parts["test"]]).sort().values, POOL)
    assert torch.bincount(LABELS[parts["heldout"]]).tolist() == [2] * 4
    assert torch.equal(parts["train"], torch.arange(100))
    other = pooled({"heldout": 8, "train": None, "test": None}, {"heldout": POOL, "test": POOL}, seed=1)
    assert not torch.equal(parts["heldout"], other["heldout"])


def test_a_fraction_is_one_of_the_pool():
    parts = pooled({"heldout": 0.5, "train": 0.5}, {"heldout": POOL})
    assert (len(parts["heldout"]), len(parts["train"])) == (10, 50)


def test_what_is_drawn_from_one_pool_does_not_depend_on_the_others():
    one = pooled({"heldout": 10, "train": None}, {"heldout": POOL})
    other = pooled({"heldout": 10, "transfer": 30, "train": 20}, {"heldout": POOL})
    assert torch.equal(one["heldout"], other["heldout"])


@pytest.mark.parametrize(
    ("pools", "sentence"),
    [
        ({"heldot": POOL}, "a pool for the part 'heldot'; did you mean 'heldout'?"),
        ({"heldout": torch.tensor([5, 120])}, "pool of 'heldout' holds sample 120, .* samples 0 to 119"),
        ({"heldout": torch.tensor([-1])}, "pool of 'heldout' holds sample -1"),
        ({"heldout": torch.tensor([3, 4, 3])}, "holds sample 3 twice"),
        ({"test": POOL, "heldout": torch.arange(90, 105)}, r"'test' and 'heldout' share 5 samples \(the first: 100\)"),
        ({"test": POOL, "heldout": POOL[:-1]}, "equal or disjoint"),
        ({"heldout": torch.ones(120, dtype=torch.bool)}, "dtype torch.bool; give the indices"),
        ({"heldout": torch.zeros(0)}, r"shape \(0,\)"),
        ({"heldout": POOL[None]}, r"shape \(1, 20\)"),
    ],
)
def test_refused_pools(pools, sentence):
    with pytest.raises(InputError, match=sentence):
        checked_pools(pools, 120)


@pytest.mark.parametrize(
    ("sizes", "pools", "sentence"),
    [
        ({"heldout": 21, "train": None}, {"heldout": POOL}, "the parts need 21 .* the pool of heldout has 20"),
        ({"heldout": 15, "test": 6}, {"heldout": POOL, "test": POOL}, "the pool of heldout and test has 20"),
        ({"heldout": None, "test": None}, {"heldout": POOL, "test": POOL}, "parts heldout, test all ask for the rest"),
        ({"heldout": None, "train": 101}, {"heldout": POOL}, "the data set outside the pools has 100"),
        ({"heldout": None, "train": None}, {"heldout": torch.arange(120)}, "nothing is left for part 'train'"),
    ],
)
def test_refused_sizes(sizes, pools, sentence):
    with pytest.raises(InputError, match=sentence):
        pooled(sizes, pools)
