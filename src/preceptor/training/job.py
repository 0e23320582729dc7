"""A run to be done: everything it needs, made into objects once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.runs import Identity
from preceptor.schema import Component
from preceptor.tasks.task import Task
from preceptor.training.data.batches import Batches, StackedBatches
from preceptor.training.data.cohort import Cohort
from preceptor.training.engine.device import Accelerator
from preceptor.training.objects.own import Own
from preceptor.training.scoring.selection import Selection


@dataclass(frozen=True, eq=False)
class Job:
    """What `preceptor.training.train` needs; below it the recipe is read for optimizer, schedule and loop alone.

    Args:
        identity: what makes the run this one, its recipe among it.
        cohort: the models and their samples.
        task: what they minimise.
        batches: what they train on.
        accelerator: device, processes, precision.
        folder: the run folder; None keeps nothing.
        distribution: how the models' logits are read.
        calibrate: fit temperatures to the held-out samples.
        prepare: called before training, and not for a run that is complete; what it gives goes into the result.
        extra: goes into the result.
        own: objects of the caller's that the loop needs.
        selection: what the best epoch is chosen by.
    """

    identity: Identity
    cohort: Cohort
    task: Task
    batches: Batches | StackedBatches
    accelerator: Accelerator
    folder: Path | None
    distribution: str = "softmax"
    calibrate: bool = False
    prepare: Callable[[], Mapping[str, Any]] = dict
    extra: Mapping[str, Any] = field(default_factory=dict)
    own: Own = field(default_factory=Own)
    selection: Selection = field(default_factory=Selection)

    @property
    def recipe(self) -> TeachRecipe | DistillRecipe:
        """What was asked."""
        return self.identity.recipe

    @property
    def verb(self) -> str:
        """``teach`` or ``distill``."""
        return self.recipe.verb

    @property
    def model(self) -> Component | None:
        """The recipe's model."""
        return self.recipe.model
