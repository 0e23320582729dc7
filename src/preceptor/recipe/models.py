"""What decides a run, as typed data."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from preceptor.schema import Component, Named, Strict, Transform

Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]

Stream = Literal["split", "initialization", "order", "augmentation", "dropout"]


class Split(Strict):
    """How the labelled data are cut: a count, or a fraction of them. What is left over is ``train``'s, or
    nobody's.

    ``heldout`` selects and assesses, by default a tenth; ``transfer`` is seen by students without its labels; ``test``
    is cut only where the data set brings none of its own. The cut is stratified by class. Where the data set has a pool
    for a part (its own validation set, say), a fraction is one of the pool, and without a size the part is all that the
    pool's other parts leave.
    """

    train: Size | None = None
    heldout: Size | None = None
    transfer: Size | None = None
    test: Size | Literal["rest"] | None = None


class Optimizer(Strict):
    """SGD or AdamW; weight decay applies to every parameter."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)


class Schedule(Strict):
    """The learning rate as a multiple of ``optimizer.lr``, by optimizer step; milestones are in epochs."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    milestones: tuple[float, ...] = ()
    factor: Annotated[float, Field(gt=0)] = 0.1
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class Average(Strict):
    """An average of the weights along training: exponential (``ema``) or uniform from ``start_epoch`` on
    (``swa``).
    """

    kind: Literal["ema", "swa"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    start_epoch: Annotated[int, Field(ge=0)] = 0


class Training(Strict):
    """The loop. ``batch_size`` is what one optimizer step sees, over all processes and accumulated
    micro-batches.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    select: Literal["brier", "nll", "accuracy"] = "brier"
    # A checkpoint after every so many epochs, or after those listed; after the last one always.
    checkpoint_epochs: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 1
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None  # and after every so many optimizer steps
    keep: Literal["last", "all"] = "last"
    num_workers: Annotated[int, Field(ge=0)] = 0
    trackers: tuple[str, ...] = ()

    @property
    def kept_epochs(self) -> list[int]:
        """The numbers of epochs after which a complete run still has the weights."""
        if self.keep == "last":
            return [self.epochs]
        return [epoch for epoch in range(1, self.epochs + 1) if self.is_checkpoint(epoch)]

    def is_checkpoint(self, epoch: int) -> bool:
        """Whether a checkpoint is written after so many epochs."""
        wanted = self.checkpoint_epochs
        due = epoch in wanted if isinstance(wanted, tuple) else epoch % wanted == 0
        return due or epoch == self.epochs


class Recipe(Strict):
    """What teaching and distilling have in common."""

    data: Named
    model: Named
    split: Split = Split()
    augmentation: Named | None = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training()
    average: Average | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    generation: Annotated[int, Field(ge=0)] = 0  # a link of a chain: each draws its own initialisation
    streams: dict[Stream, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _last_milestone(self) -> "Recipe":
        if self.schedule.name == "step" and not self.schedule.milestones:
            raise ValueError("schedule.milestones is empty; a step schedule needs at least one epoch, e.g. [30, 45]")
        if self.average and self.average.start_epoch >= self.training.epochs:
            raise ValueError(
                f"average.start_epoch is {self.average.start_epoch}, but training ends after "
                f"{self.training.epochs} epochs; choose a smaller one"
            )
        return self


class TeachRecipe(Recipe):
    """A teacher's training: ``objective`` says what it minimises, ``distribution`` how its logits are
    read.
    """

    verb: Literal["teach"] = "teach"
    objective: Named = Component(name="cross_entropy")
    distribution: Literal["softmax", "clip"] = "softmax"
    calibrate: bool = False

    @model_validator(mode="after")
    def _temperature_of_logits(self) -> "TeachRecipe":
        if self.calibrate and self.distribution == "clip":
            raise ValueError(
                "calibrate is true with distribution 'clip', but a temperature divides logits, which clipping does not "
                "use; choose distribution 'softmax' or leave calibrate out"
            )
        return self


class TeacherRef(Strict):
    """One teacher of a student: a run folder, which of its weights, and its share in the mixture.

    ``epoch`` stands for the weights after that many epochs, which a run with ``training.keep=all`` has kept;
    ``member`` for one model of a stack.
    """

    run: Path
    weights: Literal["last", "best", "average", "teaching"] = "last"
    epoch: Annotated[int, Field(ge=1)] | None = None
    member: Annotated[int, Field(ge=0)] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    calibrated: bool = False

    @model_validator(mode="after")
    def _one_moment(self) -> "TeacherRef":
        if self.epoch is not None and self.weights != "last":
            raise ValueError(
                f"the teacher '{self.run}' has epoch {self.epoch} and weights '{self.weights}', which are other "
                "moments of its training; give one of the two"
            )
        if self.epoch is not None and self.calibrated:
            raise ValueError(
                f"the teacher '{self.run}' has epoch {self.epoch} and calibrated true, but a temperature is fitted to "
                "the weights that a run ends with; leave one of the two out"
            )
        if self.weights == "teaching" and self.calibrated:
            raise ValueError(
                f"the teacher '{self.run}' has weights 'teaching' and calibrated true, but these weights bring a "
                "transform of their own; leave calibrated out"
            )
        return self


def _teachers(value: object) -> object:
    values = value if isinstance(value, list | tuple) else [value]
    return [{"run": v} if isinstance(v, str | Path) else v for v in values]


class DistillRecipe(Recipe):
    """A student's training: ``ce_weight`` CE to the labels + ``distill_weight`` times ``loss`` to the
    teacher.
    """

    verb: Literal["distill"] = "distill"
    teacher: Annotated[tuple[TeacherRef, ...], BeforeValidator(_teachers)] = ()
    transform: Transform | None = None  # of what the teachers say together, before the student sees it
    loss: Named = Component(name="kd")
    ce_weight: Annotated[float, Field(ge=0)] = 0.1
    distill_weight: Annotated[float, Field(ge=0)] = 0.9
    cache: bool = True

    @model_validator(mode="after")
    def _some_weight(self) -> "DistillRecipe":
        if self.ce_weight == self.distill_weight == 0:
            raise ValueError("ce_weight and distill_weight are both 0; a student needs something to learn from")
        return self
