"""The models of a run and the samples that each of them sees; a single model is a cohort of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from preceptor.data.augment import Augmentation, made_for
from preceptor.data.dataset import Data, Indexed
from preceptor.data.mixing import Mixing
from preceptor.errors import InputError
from preceptor.models.preparation import trains_on_one
from preceptor.names import call
from preceptor.notices import note
from preceptor.recipe import Recipe
from preceptor.tasks.stack import Stack
from preceptor.training.data.batches import Batches, Replay, StackedBatches
from preceptor.training.data.samples import Samples
from preceptor.training.data.sampling import sampler_of
from preceptor.training.data.streams import Streams

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cohort:
    """Models that differ by seed or hyper-parameter, and their samples.

    Everything that a run computes of its models has one row for each, or, where `source_of` is None, is that of the
    single model, without such an axis. No other part of the trainer asks which of the two it is.

    Args:
        module: the model, or a `Stack`.
        samples: the distinct splits that models learn from, S of them.
        source_of: for each of the M models, which of `samples` it sees; None for a single model.
    """

    module: nn.Module
    samples: list[Samples]
    source_of: list[int] | None = None

    @property
    def data(self) -> Data:
        """The data set, which all splits cut."""
        return self.samples[0].data

    @property
    def size(self) -> int | None:
        """M, or None for a single model."""
        return None if self.source_of is None else len(self.source_of)

    @property
    def parts(self) -> dict[str, Tensor]:
        """The indices of each part of the data, (n,) or (S, n)."""
        return {name: self._joined([s.parts[name] for s in self.samples]) for name in self.samples[0].parts}

    @property
    def labelled(self) -> Tensor | None:
        """Whose labels a student may look at, bool (N,) or (M, N); None if everybody's."""
        each = [s.labelled for s in self.samples]
        known = [rows for rows in each if rows is not None]
        return self.by_model(self._joined(known)) if len(known) == len(each) else None

    def scored(self, part: str) -> tuple[Indexed, Tensor]:
        """The data set and the indices, (n,) or (S, n), of the part ``heldout`` or ``test``."""
        first = self.samples[0]
        used = first.train if part == "heldout" else first.test
        assert used is not None
        rows = self._joined([s.parts["heldout"] if part == "heldout" else s.test_indices for s in self.samples])
        # An `Indexed` of its own: random transforms of a data set are the same here in every epoch and run.
        return Indexed(used.dataset, num_classes=used.num_classes, collate_fn=used.collate_fn), rows

    def by_model(self, values: Tensor) -> Tensor:
        """One row for each model of one for each source."""
        return values if self.source_of is None else values[self.source_of]

    def each(self, values: Tensor) -> list[Tensor]:
        """The value of each model."""
        return [values] if self.source_of is None else list(values)

    def plain(self, values: Sequence[T]) -> T | list[T]:
        """One value a model as a list, or as that of the single model."""
        return values[0] if self.source_of is None else list(values)

    def num_parameters(self) -> int:
        """Of one model."""
        return sum(each.numel() for each in self.module.parameters()) // (self.size or 1)

    def batches(
        self,
        recipe: Recipe,
        indices: Sequence[Tensor],
        *,
        processes: int = 1,
        device: torch.device | str = "cpu",
        replay: Replay | None = None,
    ) -> Batches | StackedBatches:
        """The training batches, on `device`; `indices` are of the samples that each source gives.

        Args:
            replay: the recording that is shown again, of a single model.

        Raises:
            InputError: every batch would have parts of one sample, on which the model cannot be trained; inputs by
                name, for which nothing is changed or compiled.
        """
        by_name = isinstance(self.samples[0].train[[0]]["input"], Mapping)
        if recipe.training.compile is True and by_name:
            raise InputError(
                "training.compile is true, but models cannot be compiled for inputs that go by name; set "
                "training.compile to false"
            )
        if (recipe.augmentation or recipe.mixing) and by_name:
            key = "augmentation" if recipe.augmentation else "mixing"
            raise InputError(
                f"{key} changes inputs of one tensor, and those of the data go by name; set {key} to null and let the "
                "data set change its samples"
            )
        augmentation, mixing = changes_of(recipe, self.data)
        smallest = self._smallest_step(recipe, len(indices[0]), recipe.training.accumulate * processes)
        streams = [
            Batches(
                samples.train,
                rows,
                recipe.training.batch_size,
                Streams(samples.seed, recipe.streams),
                augmentation=augmentation,
                mixing=mixing,
                num_workers=recipe.training.num_workers,
                smallest=smallest,
                sampler=sampler_of(recipe, samples, rows),
                device=device,
                replay=replay,
            )
            for samples, rows in zip(self.samples, indices, strict=True)
        ]
        return streams[0] if self.source_of is None else StackedBatches(streams, self.source_of)

    def _smallest_step(self, recipe: Recipe, samples: int, parts: int) -> int:
        """The samples that an optimizer step in `parts` must have: two in each part under batch normalisation."""
        batch_size = recipe.training.batch_size
        whole, rest = divmod(samples, batch_size)
        if batch_size > parts and not 0 < rest <= parts:
            return 1
        model = self.module.template if isinstance(self.module, Stack) else self.module
        if trains_on_one(model, Indexed(self.data.train, collate_fn=self.data.collate_fn)[[0, 1]]["input"]):
            return 1
        if batch_size <= parts:
            cut = f" and cut into {parts} parts" if parts > 1 else ""
            raise InputError(
                f"training.batch_size is {batch_size}{cut}, but the model cannot be trained on one sample at a time "
                f"(batch normalisation cannot); give a batch_size of at least {parts + 1}"
            )
        if not whole:
            raise InputError(
                f"the model is to be trained on {samples} sample(s) in {parts} part(s), but cannot be trained on one "
                "sample at a time (batch normalisation cannot); give it more samples"
            )
        note(
            f"the last {rest} sample(s) of each epoch join the batch before them, as the model cannot be trained on "
            "one sample at a time"
        )
        return parts + 1

    def _joined(self, rows: Sequence[Tensor]) -> Tensor:
        return rows[0] if self.source_of is None else torch.stack(list(rows))


def changes_of(recipe: Recipe, data: Data) -> tuple[Augmentation | None, Mixing | None]:
    """What a recipe that is to be trained does to the samples of `data`; what it names is imported."""
    augmentation = None
    if recipe.augmentation:
        augmentation = made_for(call("augmentation", recipe.augmentation, trust=True), data)
    return augmentation, call("mixing", recipe.mixing, trust=True) if recipe.mixing else None
