"""Which samples make which optimizer step, process and micro-batch: a pure function of the seed."""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from preceptor.data.augment import Augmentation
from preceptor.data.dataset import Indexed
from preceptor.data.mixing import OWN_SHARE, PARTNER, PARTNER_LABEL, Mixing, partners
from preceptor.errors import InputError
from preceptor.inputs import batch_to
from preceptor.training.data.resident import resident
from preceptor.training.data.sampling import Sampler
from preceptor.training.data.streams import Streams

Batch = dict[str, Any]
VIEW = "view"
"""What a batch brings beside its samples where a recording is shown again: which of its views this is."""


class Source(Protocol):
    """Where a loop gets its batches from."""

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    def epoch(self, epoch: int, *, start: int = 0, shard: "Shard" = ...) -> Iterator[list[Batch]]: ...


@dataclass(frozen=True)
class Shard:
    """This process among all of them, and the micro-batches that one optimizer step is cut into."""

    rank: int = 0
    world: int = 1
    accumulate: int = 1


WHOLE = Shard()
"""One process, and one batch a step."""


@dataclass(frozen=True)
class Replay:
    """What a recording has shown its teacher, to be shown again: its epochs are the record's views, in turn.

    Args:
        streams: of the recording; ``augmentation`` is used, for all that is drawn of a sample.
        views: how many of its epochs are on record.
        indices: int64 (n,), the samples that are, among which partners are drawn.
    """

    streams: Streams
    views: int
    indices: Tensor


class Batches:
    """The training batches of one model.

    An optimizer step sees `batch_size` samples of the epoch's permutation, whatever the number of processes
    and micro-batches: they share them out, and pad uneven shares with masked repeats. The last step of an
    epoch may be smaller, but not smaller than `smallest`: what is left then joins the step before it. Every sample is
    seen once an epoch, unless a `sampler` draws as many with replacement; each draw then is augmented by itself.

    Args:
        dataset: the samples, served by index.
        indices: int64 (n,), the part of the data set to train on.
        batch_size: samples an optimizer step.
        streams: of the run; ``order`` and ``augmentation`` are used.
        augmentation: applied to the inputs of each batch.
        mixing: of each sample with a partner of the same epoch, both augmented before; a batch then brings
            the partner's label and how much of each input is its own.
        num_workers: processes that load samples ahead; 0 loads in this one, and ``auto`` takes as many as help.
        smallest: samples that a step has at least.
        sampler: draws the samples of an epoch from the stream ``order``; None permutes them.
        device: where the batches are wanted. Arrays that fit there are moved once, and batches made there.
        replay: draw what happens to the samples as a recording did, the order as ever; a batch then brings its `view`.
    """

    dataset: Indexed
    indices: Tensor
    streams: Streams
    batch_size: int
    augmentation: Augmentation | None
    mixing: Mixing | None
    num_workers: int
    smallest: int
    device: torch.device

    def __init__(
        self,
        dataset: Indexed,
        indices: Tensor,
        batch_size: int,
        streams: Streams,
        *,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        num_workers: int | Literal["auto"] = 0,
        smallest: int = 1,
        sampler: Sampler | None = None,
        device: torch.device | str = "cpu",
        replay: Replay | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.replay: Replay | None = replay
        self._drawing: Streams = streams
        if replay is not None:
            self._drawing = replay.streams
            dataset = copy.copy(dataset)
            dataset.seed = replay.streams.seed("augmentation")
        self.dataset, self.indices, self.streams = resident(dataset, self.device), indices, streams
        self.is_resident: bool = self.dataset is not dataset
        self.batch_size, self.augmentation, self.mixing, self.smallest = batch_size, augmentation, mixing, smallest
        self.sampler: Sampler | None = sampler
        in_memory = self.dataset.is_vectorised
        self.num_workers = (0 if in_memory else useful_workers()) if num_workers == "auto" else num_workers

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return len(step_sizes(len(self.indices), self.batch_size, self.smallest))

    @property
    def num_samples(self) -> int:
        """Samples of the training set, of which an epoch draws as many."""
        return len(self.indices)

    def epoch(self, epoch: int, *, start: int = 0, shard: Shard = WHOLE) -> Iterator[list[Batch]]:
        """For each optimizer step from `start` on, this process's micro-batches."""
        order = self._order(epoch)
        order = order.to(self.device) if self.is_resident else order
        sizes = step_sizes(len(order), self.batch_size, self.smallest)
        plan = [share for step in order.split(sizes)[start:] for share in shares(step, shard)]
        steps = torch.arange(len(order)).split(sizes)[start:] if self._by_place else ()
        places = [place for step in steps for place, _ in shares(step, shard)]
        micro: list[Batch] = []
        shown = epoch if self.replay is None else epoch % self.replay.views
        for (_, mask), batch in zip(plan, self.made([indices for indices, _ in plan], shown, places), strict=True):
            micro.append(_masked(batch, mask))
            if len(micro) == shard.accumulate:
                yield micro
                micro = []

    @property
    def _by_place(self) -> bool:
        """Whether a sample that comes twice is augmented anew each time; a recording has shown each in one way."""
        return self.sampler is not None and self.replay is None

    def _order(self, epoch: int) -> Tensor:
        """The samples of an epoch in their order, (n,)."""
        generator = self.streams.generator("order", epoch)
        if self.sampler is not None:
            return self.indices[self.sampler.draw(generator)]
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def made(self, plan: Sequence[Tensor], epoch: int, places: Sequence[Tensor] = ()) -> Iterator[Batch]:
        """A batch of the samples (B,) of each part of a plan, as they are shown in `epoch`: augmented and mixed.

        Args:
            places: of the samples in the epoch, part by part, where it is these that they are augmented by.
        """
        draws, mixed = self._draws(epoch), self._mixed(epoch)
        wanted, drawn = [mixed.with_partners(indices) if mixed else indices for indices in plan], iter(places)
        for batch in self._load(wanted, epoch):
            batch = self._augmented(batch, draws, next(drawn, None))
            batch = mixed(batch) if mixed else batch
            yield batch if self.replay is None else {**batch, VIEW: torch.full_like(batch["index"], epoch)}

    def drawn(self, epoch: int) -> list[Tensor]:
        """All that is drawn for an epoch, on the CPU: rows of parameters of the augmentation and the mixing, and
        partners.
        """
        draws, mixed = self._draws(epoch), self._mixed(epoch)
        found = ([] if draws is None else [draws]) + ([] if mixed is None else [mixed.partner_of, mixed.draws])
        return [each.cpu() for each in found]

    def _augmented(self, batch: Batch, draws: Tensor | None, places: Tensor | None) -> Batch:
        """A batch on its device, its inputs changed: by sample, or by place in the epoch where samples repeat."""
        batch = batch_to(batch, self.device, non_blocking=True)
        if draws is not None and self.augmentation is not None:
            rows = batch["index"] if places is None else places.to(self.device)
            batch["input"] = self.augmentation.apply(batch["input"], draws[rows])
        return batch

    def _draws(self, epoch: int) -> Tensor | None:
        """What happens to each sample in an epoch, drawn on the CPU whatever the device."""
        if self.augmentation is None:
            return None
        size = len(self.indices) if self._by_place else len(self.dataset)
        return self.augmentation.draw(size, self._drawing.generator("augmentation", epoch)).to(self.device)

    def _mixed(self, epoch: int) -> "Mixed | None":
        if self.mixing is None:
            return None
        among = self.indices if self.replay is None else self.replay.indices
        paired = partners(among, len(self.dataset), self._drawing.generator("augmentation", epoch, 1))
        draws = self.mixing.draw(len(self.dataset), self._drawing.generator("augmentation", epoch, 2))
        return Mixed(self.mixing, paired.to(self.device if self.is_resident else "cpu"), draws.to(self.device))

    def _load(self, plan: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        self.dataset.epoch = epoch
        if self.num_workers == 0 or self.is_resident:
            return (self.dataset[indices] for indices in plan)
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=[indices.tolist() for indices in plan],  # type: ignore[arg-type]  # each list is one batch
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the loader draws its workers' seed from the global generator
        )
        return iter(loader)


@dataclass(frozen=True)
class Mixed:
    """One epoch's mixing: which sample is mixed with which, and how.

    Args:
        mixing: of inputs.
        partner_of: int64 (N,), by sample.
        draws: of the mixing, one row for each sample.
    """

    mixing: Mixing
    partner_of: Tensor
    draws: Tensor

    def with_partners(self, indices: Tensor) -> Tensor:
        """The samples of a batch (B,), and behind them their partners: (2 B,)."""
        return torch.cat([indices, self.partner_of[indices]])

    def __call__(self, both: Batch) -> Batch:
        """A batch of B samples from one of them and their partners.

        Raises:
            InputError: inputs that are no floating-point numbers, or labels for parts of a sample.
        """
        inputs, size = both["input"], len(both["index"]) // 2
        if not inputs.is_floating_point() or both["label"].ndim > 1:
            raise InputError(
                f"mixing needs inputs of floats with a label each, and they are of {inputs.dtype} with labels of shape "
                f"{tuple(both['label'].shape[1:])}; leave the mixing out"
            )
        halves = slice(size), slice(size, None)
        batch, partner = ({name: tensor[half] for name, tensor in both.items()} for half in halves)
        mixed, share = self.mixing.mix(batch["input"], partner["input"], self.draws[batch["index"]])
        counts = partner["mask"]  # a sample whose partner does not count stays as it is
        return batch | {
            "input": torch.where(counts.view(-1, *[1] * (mixed.ndim - 1)), mixed, batch["input"]),
            PARTNER: partner["index"],
            PARTNER_LABEL: partner["label"].masked_fill(~counts, 0),
            OWN_SHARE: torch.where(counts, share, 1.0),
        }


def _masked(batch: Batch, mask: Tensor) -> Batch:
    """A batch whose padding does not count. A data set may bring a mask of its own (tokens of a sequence)."""
    if mask.all():
        return batch
    own = batch["mask"]
    mask = mask.to(own.device, non_blocking=True)
    return {**batch, "mask": own & mask.reshape(mask.shape + (1,) * (own.ndim - 1))}


def useful_workers() -> int:
    """Processes that can load samples while this one trains: one less than there are cores, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1)


def step_sizes(samples: int, batch_size: int, smallest: int = 1) -> list[int]:
    """The samples of each optimizer step of an epoch.

    >>> step_sizes(65, 32), step_sizes(65, 32, smallest=2), step_sizes(1, 32, smallest=2)
    ([32, 32, 1], [32, 33], [1])
    """
    whole, rest = divmod(samples, batch_size)
    if whole and 0 < rest < smallest:
        return [batch_size] * (whole - 1) + [batch_size + rest]
    return [batch_size] * whole + [rest] * (rest > 0)


def shares(step: Tensor, shard: Shard) -> list[tuple[Tensor, Tensor]]:
    """The parts of one optimizer step that this process works on, as (indices, mask), all of one size.

    Parts run over micro-batches first, then processes; short ones are padded with masked repeats of the
    step's first sample.
    """
    parts = shard.accumulate * shard.world
    size = -(-len(step) // parts)
    padded = torch.cat([step, step[:1].expand(parts * size - len(step))]).view(shard.accumulate, shard.world, size)
    mask = (torch.arange(parts * size) < len(step)).view(shard.accumulate, shard.world, size)
    return list(zip(padded[:, shard.rank], mask[:, shard.rank], strict=True))


class StackedBatches:
    """The batches of several models trained as one stack, each with its own samples, order and augmentation.

    ``input`` has one leading row for each *distinct* source, ``label``, ``index`` and ``mask`` one for each
    model: models that share a source share its inputs' memory.

    Args:
        sources: the distinct batch streams; they must have equal length.
        source_of: for each model, which of `sources` feeds it.
    """

    sources: list[Batches]
    source_of: Tensor

    def __init__(self, sources: Sequence[Batches], source_of: Sequence[int]) -> None:
        lengths = {len(source.indices) for source in sources}
        if len(lengths) != 1:
            raise ValueError(f"stacked models need training sets of one size, not {sorted(lengths)}")
        self.sources, self.source_of = list(sources), torch.tensor(list(source_of))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.sources[0].steps_per_epoch

    @property
    def num_samples(self) -> int:
        """Samples of the training set of one model."""
        return self.sources[0].num_samples

    def epoch(self, epoch: int, *, start: int = 0, shard: Shard = WHOLE) -> Iterator[list[Batch]]:
        """For each optimizer step from `start` on, its micro-batches, stacked over models."""
        streams = [source.epoch(epoch, start=start, shard=shard) for source in self.sources]
        for step in zip(*streams, strict=True):
            yield [self._stack(micro) for micro in zip(*step, strict=True)]

    def _stack(self, batches: Sequence[Batch]) -> Batch:
        stacked = {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}
        return {name: t if name == "input" else t[self.source_of] for name, t in stacked.items()}
