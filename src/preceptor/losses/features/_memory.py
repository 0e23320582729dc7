"""A memory of what every sample of the data was embedded to last, for losses that contrast with many samples."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from preceptor.errors import InputError
from preceptor.losses.features.base import Gather


class Memory(nn.Module):
    """Two embeddings of unit length for each sample, a student's and a teacher's, that follow what they are now.

    A step sees the memory as the step before left it: `hold` notes embeddings, and `merge` moves the memory towards
    them once the step is done, on all processes alike.

    Args:
        num_samples: N.
        dim: D, of an embedding.
        momentum: the share of the old value in a new one.

    Attributes:
        student, teacher: (N, D), saved with the run; at the start uniform random numbers whose mean square is 1 / D.
    """

    student: Tensor
    teacher: Tensor

    def __init__(self, num_samples: int, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum: float = momentum
        width = math.sqrt(3 / dim)
        self.register_buffer("student", torch.empty(num_samples, dim).uniform_(-width, width))
        self.register_buffer("teacher", torch.empty(num_samples, dim).uniform_(-width, width))
        self._held: list[list[Tensor]] = []
        self.register_load_state_dict_pre_hook(_same_samples)

    def check(self, index: Int64[Tensor, " batch"]) -> None:
        """Refuse samples that it has no place for, where that costs nothing: on a GPU, torch's assertion speaks."""
        if index.device.type != "cpu" or not len(index):
            return
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= len(self.student):
            raise InputError(
                f"index reaches from {low} to {high}, but the memory is of {len(self.student)} samples; "
                "give the places of the samples in the data that the loss was built for"
            )

    def hold(
        self, index: Int64[Tensor, " batch"], student: Float[Tensor, "batch d"], teacher: Float[Tensor, "batch d"]
    ) -> None:
        """Note embeddings, of one of the micro-batches of a step."""
        self._held.append([index, *(each.detach().to(self.student.dtype) for each in (student, teacher))])

    def merge(self, gather: Gather) -> None:
        """Take what was held, here and on the other processes, into the memory."""
        places = gather(torch.cat([torch.empty(0, dtype=torch.int64, device=self.student.device), *self._held_of(0)]))
        new = [
            gather(torch.cat([bank[:0], *self._held_of(side)])) for side, bank in ((1, self.student), (2, self.teacher))
        ]
        self._held.clear()
        last = _last_of_each(places)
        for bank, embedded in zip((self.student, self.teacher), new, strict=True):
            mixed = self.momentum * bank[places[last]] + (1 - self.momentum) * embedded[last]
            bank[places[last]] = normalize(mixed)

    def _held_of(self, part: int) -> list[Tensor]:
        return [held[part] for held in self._held]


class OtherClasses(nn.Module):
    """Draws of samples of other classes than a sample's own: all different where there are enough, else repeatedly.

    A sample without a label gets any samples, and is itself none of those drawn for a sample that has one.

    Args:
        labels: of the data, (N,), -1 where there is none; None where none is known at all.

    Raises:
        InputError: all labels are the same.
    """

    labels: Tensor
    order: Tensor
    first: Tensor
    counts: Tensor

    def __init__(self, labels: Int64[Tensor, " samples"] | None, num_samples: int) -> None:
        super().__init__()
        labels = torch.full((num_samples,), -1) if labels is None else labels.detach().cpu()
        known = labels[labels >= 0]
        counts = torch.bincount(known, minlength=1)
        if len(known) and int(counts.max()) == len(known):
            raise InputError(
                f"all {len(known)} labelled samples are of class {int(known[0])}; "
                "give a loss that contrasts classes data of two or more"
            )
        self.num_known: int = len(known)
        self.largest: int = int(counts.max())
        self.smallest: int = int(counts[counts > 0].min()) if len(known) else 0
        # Known samples, class after class; no part of the state, as the data say it again.
        order = labels.argsort(stable=True)[len(labels) - len(known) :]
        for name, each in {
            "labels": labels,
            "order": order,
            "first": counts.cumsum(0) - counts,
            "counts": counts,
        }.items():
            self.register_buffer(name, each, persistent=False)

    def forward(self, index: Int64[Tensor, " batch"], count: int) -> Int64[Tensor, "batch count"]:
        """The indices of so many negatives for each of the samples."""
        anything = torch.randint(len(self.labels), (len(index), count), device=index.device)
        if not self.num_known:
            return anything
        label = self.labels[index].unsqueeze(1)
        own, first = (each[label.clamp(min=0)] for each in (self.counts, self.first))
        found = anything
        if count > self.num_known - self.largest:
            # 2^48 is so much more than there are samples that the remainder favours none.
            draw = torch.randint(2**48, (len(index), count), device=index.device) % (self.num_known - own)
            found = self.order[torch.where(draw >= first, draw + own, draw)]  # past its own class, in their order
        if count <= self.num_known - self.smallest:
            found = self._different(found, label, self.num_known - own >= count)
        return torch.where(label >= 0, found, anything)

    def _different(self, found: Tensor, label: Tensor, enough: Tensor) -> Tensor:
        """Draws without repetition, for samples of whose other classes there is enough; the others' stay.

        All walk through one random order, each from a place of its own, and skip their own class. So the negatives of
        one sample are any with the same chance, at the cost of a walk rather than of an order for each.
        """
        batch, count = found.shape
        steps = torch.arange(min(self.num_known, count + self.largest), device=found.device)
        shuffled = self.order[torch.randperm(self.num_known, device=found.device)]
        start = torch.randint(self.num_known, (batch, 1), device=found.device)
        seen = shuffled[(start + steps) % self.num_known]
        keep = (self.labels[seen] != label) & enough
        place = keep.cumsum(1) - 1
        place = torch.where(keep & (place < count), place, count)  # what is not kept goes to a last place, cut off
        return torch.cat([found, found[:, :1]], 1).scatter(1, place, seen)[:, :count]


def _last_of_each(places: Int64[Tensor, " held"]) -> Int64[Tensor, " once"]:
    """Where each place stands for the last time: of a sample seen twice in a step one embedding counts, not any."""
    order = places.argsort(stable=True)
    ordered = places[order]
    return order[torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(min(len(ordered), 1), dtype=torch.bool)])]


def _same_samples(memory: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    saved = state.get(f"{prefix}student")
    if isinstance(memory, Memory) and isinstance(saved, Tensor) and len(saved) != len(memory.student):
        raise InputError(
            f"the saved memory is of {len(saved)} samples but the data are of {len(memory.student)}; "
            "continue with the data that it was saved with"
        )
