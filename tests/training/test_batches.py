"""Which samples make which step, and the streams that decide it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from preceptor.data.augment import crop_flip
from preceptor.data.dataset import ArrayDataset, Indexed
from preceptor.training import distill, teach
from preceptor.training.data.batches import Batches, Shard, StackedBatches, shares
from preceptor.training.data.streams import STREAMS, Streams
from training.toys import assert_close, distill_recipe, snapshot, teach_recipe, weights


def dataset(size: int = 50) -> Indexed:
    images = torch.arange(size * 16.0).view(size, 1, 4, 4)
    return Indexed(ArrayDataset(images, torch.arange(size) % 3))


def batches(size: int = 50, seed: int = 0, **options: Any) -> Batches:
    indices = torch.arange(0, size, 2)
    return Batches(dataset(size), indices, 8, Streams(seed, options.pop("overrides", None)), **options)


def seen(source: Batches, epoch: int, **options: Any) -> list[Tensor]:
    return [torch.cat([b["index"][b["mask"]] for b in step]) for step in source.epoch(epoch, **options)]


@given(size=st.integers(1, 40), world=st.integers(1, 4), accumulate=st.integers(1, 4))
@settings(deadline=None)
def test_shares_make_up_the_step(size: int, world: int, accumulate: int) -> None:
    step = torch.randperm(1000)[:size]
    parts = [share for rank in range(world) for share in shares(step, Shard(rank, world, accumulate))]
    assert len(parts) == world * accumulate
    assert len({len(indices) for indices, _ in parts}) == 1  # gathering needs one size
    kept = torch.cat([indices[mask] for indices, mask in parts])
    assert sorted(kept.tolist()) == sorted(step.tolist())
    assert all(set(indices.tolist()) <= set(step.tolist()) for indices, _ in parts)


@given(
    size=st.integers(2, 60),
    batch_size=st.integers(1, 30),
    start=st.integers(0, 5),
    world=st.integers(1, 3),
    accumulate=st.integers(1, 3),
)
@settings(deadline=None, max_examples=40)
def test_every_sample_once_an_epoch(size: int, batch_size: int, start: int, world: int, accumulate: int) -> None:
    source = Batches(dataset(size), torch.arange(size), batch_size, Streams(1))
    whole = seen(source, 2)
    assert len(whole) == source.steps_per_epoch
    assert sorted(torch.cat(whole).tolist()) == list(range(size))
    shards = [seen(source, 2, start=start, shard=Shard(rank, world, accumulate)) for rank in range(world)]
    assert {len(steps) for steps in shards} == {max(0, len(whole) - start)}
    for step, parts in zip(whole[start:], zip(*shards, strict=True), strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(step.tolist())


def test_batches_hold_what_their_index_says() -> None:
    source = batches()
    for (batch,) in source.epoch(0):
        assert torch.equal(batch["input"][:, 0, 0, 0], batch["index"] * 16.0)
        assert torch.equal(batch["label"], batch["index"] % 3)


def test_augmentation_goes_by_sample() -> None:
    """A sample is changed alike whatever the batch that it comes in, and differently in the next epoch."""
    augmentation = crop_flip(padding=1)
    for shard in (Shard(), Shard(1, 2, 2)):
        found = {}
        for step in batches(augmentation=augmentation).epoch(3, shard=shard):
            for batch in step:
                found |= dict(zip(batch["index"].tolist(), batch["input"], strict=True))
        parameters = augmentation.draw(50, Streams(0).generator("augmentation", 3))
        for index, image in found.items():
            original = dataset()[[index]]["input"]
            assert torch.equal(image[None], augmentation.apply(original, parameters[[index]]))
    first, second = (next(iter(batches(augmentation=augmentation).epoch(e)))[0]["input"] for e in (0, 1))
    assert not torch.equal(first, second)


def test_a_mask_of_the_users_own_is_kept() -> None:
    samples = [{"input": torch.ones(3), "label": torch.tensor([0, 1]), "mask": torch.tensor([True, False])}] * 3
    source = Batches(Indexed(samples), torch.arange(3), 3, Streams(0))
    first, second = ([b for step in source.epoch(0, shard=Shard(r, 2)) for b in step] for r in (0, 1))
    assert [b["mask"].tolist() for b in first] == [[[True, False], [True, False]]]
    assert [b["mask"].tolist() for b in second] == [[[True, False], [False, False]]]


def test_stacked_batches_are_those_of_their_sources() -> None:
    sources = [batches(seed=4), batches(seed=5)]
    stacked = StackedBatches(sources, [1, 0, 1])
    for (batch,), (first,), (second,) in zip(stacked.epoch(1), sources[0].epoch(1), sources[1].epoch(1), strict=True):
        assert torch.equal(batch["input"], torch.stack([first["input"], second["input"]]))
        for name in ("label", "index", "mask"):
            assert torch.equal(batch[name], torch.stack([second[name], first[name], second[name]]))
    with pytest.raises(ValueError, match=r"one size, not \[25, 26\]"):
        StackedBatches([batches(50), batches(52)], [0, 1])


# -- streams -------------------------------------------------------------------------------------------------


def test_streams_do_not_shift_each_other() -> None:
    expected = {name: torch.rand(3, generator=Streams(7).generator(name, 2)) for name in STREAMS}
    assert len({str(draw.tolist()) for draw in expected.values()}) == len(STREAMS)
    for disturbed in STREAMS:
        streams = Streams(7)
        torch.rand(100, generator=streams.generator(disturbed, 2))
        torch.rand(100)
        for name in STREAMS:
            assert torch.equal(torch.rand(3, generator=streams.generator(name, 2)), expected[name])
        other = Streams(7, {disturbed: 8})
        for name in STREAMS:
            same = torch.equal(torch.rand(3, generator=other.generator(name, 2)), expected[name])
            assert same == (name != disturbed)


def test_another_order_alone() -> None:
    first, second = batches(augmentation=crop_flip()), batches(augmentation=crop_flip(), overrides={"order": 1})
    found = []
    for source in (first, second):
        inputs = {int(i): x for (b,) in source.epoch(0) for i, x in zip(b["index"], b["input"], strict=True)}
        found.append((inputs, torch.cat(seen(source, 0)).tolist()))
    assert found[0][1] != found[1][1]
    assert found[0][0].keys() == found[1][0].keys()
    assert all(torch.equal(x, found[1][0][i]) for i, x in found[0][0].items())


def test_students_of_one_seed_are_paired(tmp_path: Any) -> None:
    """Another loss changes neither the split, nor the first weights, nor what is seen when, nor how it is
    changed.
    """
    inits, inputs, seen = [], [], []

    class Watching(torch.nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(64, num_classes)
            inits.append(self.linear.weight.detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            if self.training and torch.is_grad_enabled():  # a step, and no trial before
                inputs.append(x)
            return self.linear(x.flatten(1))

    def teacher(batch: Any) -> Tensor:
        return batch["input"].flatten(1)[:, :10]

    for name, more in (("a", ["loss=kd"]), ("b", ["loss=dkd", "ce_weight=1.0"]), ("c", ["loss=kd", "seed=1"])):
        recipe = distill_recipe(*more, "augmentation=crop_flip", "training.precision=fp32")
        inputs.clear()
        distill(recipe, tmp_path / name, teacher=teacher, model=Watching)
        seen.append(inputs[-6:])  # two epochs of three steps; before them it was tried
    assert torch.equal(inits[0], inits[1])
    assert not torch.equal(inits[0], inits[2])
    a, b, c = seen
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, c, strict=True))
    splits = [(tmp_path / name / "splits.json").read_bytes() for name in "abc"]
    assert splits[0] == splits[1] != splits[2]


class Noisy(Dataset[tuple[Tensor, int]]):
    """A user's data set with a random transform of its own."""

    classes = ("even", "odd")

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(4) + index % 2, index % 2


def test_random_transforms_are_reproducible(tmp_path: Any) -> None:
    for name in ("first", "second"):
        torch.manual_seed(len(name))
        teach(teach_recipe(), tmp_path / name, data=Noisy())
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")
    other = teach(teach_recipe("training.batch_size=50"), tmp_path / "other", data=Noisy())
    first = teach(teach_recipe(), tmp_path / "first", data=Noisy())
    assert other["heldout"]["last"] != first["heldout"]["last"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_loading_processes_change_nothing(tmp_path: Any) -> None:
    for workers in (0, 1):
        recipe = teach_recipe(f"training.num_workers={workers}", "training.batch_size=40", "training.epochs=1")
        teach(recipe, tmp_path / str(workers), data=Noisy())
    assert_close(weights(tmp_path / "1"), weights(tmp_path / "0"), 0)


def test_random_transforms_reach_a_live_teacher() -> None:
    """What a teacher says of a sample is asked again in every epoch, where the sample changes."""
    asked = []

    def teacher(batch: Any) -> Tensor:
        asked.append(len(batch["index"]))
        return batch["input"][:, :2]

    def steps(sizes: list[int]) -> list[int]:
        return [size for size in sizes if size in (64, 22)]  # those of 150 samples; trials and scores are of others

    distill(distill_recipe("training.epochs=3"), teacher=teacher, data=Noisy())
    assert steps(asked) == 3 * [64, 64, 22]
    asked.clear()
    still = [(torch.randn(4), index % 2) for index in range(300)]
    distill(distill_recipe("training.epochs=3"), teacher=teacher, data=still)
    assert steps(asked) == []
    assert asked.count(150) == 1  # the table
