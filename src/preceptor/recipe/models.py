"""What decides a run, as typed data."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from preceptor.errors import InputError
from preceptor.recipe.optimization import AnyOptimizer, AnySchedule, Optimizer, Schedule
from preceptor.recipe.published import published_weights, weighed_parts
from preceptor.recipe.selection import AnyMetric, AnySampling, Metric
from preceptor.schema import NUMBER, Component, Count, Named, Strict, Transform, Whole, several_by_name

Size = Count | Annotated[float, Field(gt=0, lt=1), NUMBER]

Stream = Literal["split", "initialization", "order", "augmentation", "dropout", "noise"]


class Split(Strict):
    """How the labelled data are cut: a count, or a fraction of them. What is left over is ``train``'s, or
    nobody's.

    ``heldout`` selects and assesses, by default a tenth; ``transfer`` is seen by students without its labels; ``test``
    is cut only where the data set brings none of its own. The cut is stratified by class. Where the data set has a pool
    for a part (its own validation set, say), a fraction is one of the pool, and without a size the part is all that the
    pool's other parts leave.
    """

    train: Size | None = None
    """Samples that are learned from with their labels; without a size all that is left."""
    heldout: Size | None = None
    """Samples that select and assess; without a size a tenth."""
    transfer: Size | None = None
    """Samples that students see without their labels; none without a size."""
    test: Size | Literal["rest"] | None = None
    """Test samples, where the data set has no test set of its own; ``rest`` takes all that is left."""


class Average(Strict):
    """An average of the weights along training: exponential (``ema``) or uniform from ``start_epoch`` on
    (``swa``).
    """

    kind: Literal["ema", "swa"] = "ema"
    """``ema`` forgets exponentially, ``swa`` is the plain mean."""
    decay: Annotated[float, Field(gt=0, lt=1), NUMBER] = 0.999
    """Of ``ema``: what it keeps at each optimizer step."""
    start_epoch: Annotated[int, Field(ge=0), NUMBER] = 0
    """The number of epochs after which averaging begins."""


class Training(Strict):
    """The loop. ``batch_size`` is what one optimizer step sees, over all processes and accumulated
    micro-batches.
    """

    epochs: Count = 10
    """Passes over the training samples."""
    batch_size: Count = 128
    """Samples of one optimizer step, over all processes and micro-batches."""
    accumulate: Count = 1
    """Micro-batches of one optimizer step: less memory, the same step."""
    clip_norm: Annotated[float, Field(gt=0), NUMBER] | None = None
    """The largest norm of the whole gradient; without it none is clipped."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Of the forward pass; weights stay fp32. ``auto`` is bf16 where the processor has it, and is said."""
    compile: bool | Literal["auto"] = False
    """Compile the models with torch.compile and, on an NVIDIA GPU, capture a step as one graph. ``auto`` does so on a
    GPU, and says where it cannot; ``true`` refuses what cannot be compiled."""
    fused: bool | Literal["auto"] = "auto"
    """Of language models: take losses from hidden states and heads, so that the logits of a step never all exist.
    ``auto`` does so from 8,192 tokens on, where model and losses can; ``true`` refuses those that cannot."""
    device: Literal["auto", "cpu"] = "auto"
    """``auto`` takes an accelerator where there is one."""
    select: AnyMetric = "brier"
    """The held-out score whose best epoch is kept as ``best``: one of ours, or somebody's own metric."""
    patience: Count | None = None
    """Stop once the selected score has not become better in so many epochs; the schedule stays that of ``epochs``."""
    checkpoint_epochs: Count | tuple[Count, ...] = 1
    """A checkpoint after every so many epochs, or after those listed; after the last one always."""
    checkpoint_every: Count | None = None
    """And after every so many optimizer steps."""
    keep: Literal["last", "all"] = "last"
    """``all`` keeps the weights of every checkpoint: each epoch is a candidate teacher."""
    num_workers: Annotated[int, Field(ge=0, le=256), NUMBER] | Literal["auto"] = 0
    """Processes that load samples ahead, of data that are read one by one; ``auto`` takes one less than there are
    cores, 8 at most. Arrays are not loaded, and need none."""
    trackers: tuple[str, ...] = ()
    """``tensorboard``, ``wandb``, ``mlflow`` or another that accelerate knows."""

    @property
    def maximize(self) -> bool:
        """Whether a larger value of the selected score is the better one."""
        if isinstance(self.select, Metric):
            return self.select.maximize
        return self.select not in ("brier", "nll")

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


def _in_turn(value: object) -> object:
    """A list of augmentations is short for their composition."""
    return {"name": "compose", "steps": value} if isinstance(value, list | tuple) else value


class Recipe(Strict):
    """What teaching and distilling have in common."""

    data: Named | None = None
    """The data set: a public name of `preceptor.data`, or ``package.module:name``; none where one is handed over."""
    num_classes: Annotated[int, Field(ge=2, le=1_000_000), NUMBER] | None = None
    """How many classes there are, where they have no names and the training labels may lack some."""
    model: Named | None = None
    """The model: a public name of `preceptor.models`, or ``package.module:name``; none where one is handed over."""
    split: Split = Split()
    """How the labelled data are cut."""
    augmentation: Annotated[Named | None, BeforeValidator(_in_turn)] = None
    """Random changes of the training inputs: a public name of `preceptor.data.augment`, or a list of them."""
    mixing: Named | None = None
    """Random mixtures of two training samples each: a public name of `preceptor.data.mixing`."""
    sampler: AnySampling = None
    """Which training samples an epoch draws, with replacement: ``balanced`` or ``weighted``; without it each once."""
    optimizer: AnyOptimizer = Optimizer()
    """Optimizer and learning rate."""
    schedule: AnySchedule = Schedule()
    """The learning rate's course."""
    training: Training = Training()
    """The loop."""
    average: Average | None = None
    """An average of the weights beside them, saved as ``average``."""
    seed: Annotated[int, Field(ge=0), NUMBER] = 0
    """Of every stream of randomness."""
    generation: Annotated[int, Field(ge=0), NUMBER] = 0
    """The place in a chain of students: each draws its own initialisation."""
    streams: dict[Stream, Whole] = Field(default_factory=dict)
    """Another seed for some streams: split, initialization, order, augmentation, dropout, noise (of sgld)."""
    start: str | None = None
    """A complete run whose weights the model begins with (``RUN``, ``RUN:best``...), to be fine-tuned; without it they
    are drawn."""
    parent: Path | None = None
    """The complete run that this one goes on from, for more epochs (`--more-epochs`)."""

    @property
    def data_name(self) -> str:
        """What an error or a table calls the data."""
        return self.data.name if self.data else "given"

    @model_validator(mode="after")
    def _moments_of_training(self) -> "Recipe":
        if self.sampler and self.mixing:
            raise ValueError(
                f"sampler is '{self.sampler.name}' with mixing '{self.mixing.name}', which pairs samples that are all "
                "seen once; leave one of the two out"
            )
        if self.average and self.average.start_epoch >= self.training.epochs:
            raise ValueError(
                f"average.start_epoch is {self.average.start_epoch}, but training ends after "
                f"{self.training.epochs} epochs; choose a smaller one"
            )
        return self

    @model_validator(mode="after")
    def _compiled_for_one_tensor(self) -> "Recipe":
        named = {"data": self.data, "model": self.model}
        for key, name in (("data", "tokens"), ("model", "causal_lm")):
            found = named[key]
            if self.training.compile is True and found is not None and found.name == name:
                raise ValueError(
                    f"training.compile is true with {key} '{name}', but models cannot be compiled for inputs that go "
                    "by name; set training.compile to false"
                )
        return self

    @model_validator(mode="after")
    def _moments_of_the_schedule(self) -> "Recipe":
        if not isinstance(self.schedule, Schedule):
            return self
        if self.schedule.name == "step" and not self.schedule.milestones:
            raise ValueError("schedule.milestones is empty; a step schedule needs at least one epoch, e.g. [30, 45]")
        if self.schedule.name == "one_cycle" and self.schedule.warmup_epochs == 0:
            raise ValueError(
                "schedule.warmup_epochs is 0; a one_cycle schedule rises over some epochs, e.g. "
                f"{0.3 * self.training.epochs:g} of {self.training.epochs}"
            )
        if self.schedule.warmup_epochs > self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs is {self.schedule.warmup_epochs:g}, but training ends after "
                f"{self.training.epochs} epochs, before the rate has risen; choose a smaller one"
            )
        self._refuse_broken_cycles(self.schedule)
        return self

    def _refuse_broken_cycles(self, schedule: Schedule) -> None:
        """A cycle ends with an epoch, after which the weights can be kept."""
        falling = self.training.epochs - schedule.warmup_epochs
        if schedule.name == "cyclic" and (falling % schedule.cycles or falling < schedule.cycles):
            whole = schedule.cycles * max(1, round(falling / schedule.cycles)) + math.ceil(schedule.warmup_epochs)
            more = (
                "" if float(schedule.warmup_epochs).is_integer() else ", and schedule.warmup_epochs to a whole number"
            )
            raise ValueError(
                f"schedule.cycles is {schedule.cycles}, but the {falling:g} epochs after the warm-up are not so many "
                f"cycles of whole epochs; set training.epochs to {whole}, say{more}"
            )


class TeachRecipe(Recipe):
    """A teacher's training: ``objective`` says what it minimises, ``distribution`` how its logits are
    read.
    """

    verb: Literal["teach"] = "teach"
    """What the recipe is for."""
    objective: Named = Component(name="cross_entropy")
    """What the teacher minimises: a public name of `preceptor.teaching`, or ``package.module:name``."""
    distribution: Literal["softmax", "clip"] = "softmax"
    """How logits become probabilities; ``clip`` for mse on raw outputs."""
    calibrate: bool = False
    """Fit a temperature to the held-out labels after training (``RUN:calibrated``)."""

    @model_validator(mode="after")
    def _temperature_of_logits(self) -> "TeachRecipe":
        if self.calibrate and self.distribution == "clip":
            raise ValueError(
                "calibrate is true with distribution 'clip', but a temperature divides logits, which clipping does not "
                "use; choose distribution 'softmax' or leave calibrate out"
            )
        return self


class TeacherRef(Strict):
    """One teacher of a student: a run folder, which of its weights, and its share in the mixture; or stored outputs.

    ``epoch`` stands for the weights after that many epochs, which a run with ``training.keep=all`` has kept;
    ``member`` for one model of a stack.
    """

    run: Path
    """A run's folder, a record's, one of transformers, or a file of outputs (``.npz``, ``.npy``, ``.parquet``)."""
    weights: Literal["last", "best", "average", "teaching"] = "last"
    """Which of its weights."""
    epoch: Count | None = None
    """The weights after so many epochs instead."""
    member: Annotated[int, Field(ge=0), NUMBER] | None = None
    """One model of a stack, counted from 0."""
    weight: Annotated[float, Field(gt=0), NUMBER] = 1.0
    """Its share in the mixture."""
    calibrated: bool = False
    """At the temperature that the run has fitted."""

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
    """A student's training: ``ce_weight`` times ``label_loss`` to the labels + ``distill_weight`` times ``loss`` to the
    teacher.
    """

    verb: Literal["distill"] = "distill"
    """What the recipe is for."""
    teacher: Annotated[tuple[TeacherRef, ...], BeforeValidator(_teachers)] = ()
    """A run folder, a file of stored outputs, or a list of references, whose probabilities are averaged."""
    transform: Transform | None = None
    """What is done to the teachers' mixture before the student sees it."""
    loss: Annotated[Component | None, BeforeValidator(several_by_name)] = Component(name="kd")
    """What the student minimises: a public name of `preceptor.losses` or `preceptor.losses.features`, or
    ``package.module:name``; or a list of these, which are summed, each with a ``weight`` of its own; null where a
    Python object stood in for it."""
    label_loss: Named = Component(name="cross_entropy")
    """What the student minimises to the labels: as ``objective`` of a teacher."""
    ce_weight: Annotated[float, Field(ge=0), NUMBER] = 0.1
    """Of the loss to the labels; 1 beside a sum, and as published beside a loss of `preceptor.losses.features`."""
    distill_weight: Annotated[float, Field(ge=0), NUMBER] = 0.9
    """Of the loss to the teacher; 1 of a sum, and as published of a loss of `preceptor.losses.features`."""
    probabilities: bool = False
    """The teachers handed over give probabilities, not logits; runs know themselves what they give."""
    resize: bool = False
    """Give a teacher that was trained on images of another size images of that size."""
    cache: bool = True
    """Ask the teacher once for each sample, where its input is the same in every epoch."""
    teacher_rows: Literal["ids", "position"] = "ids"
    """What says which sample a stored output is of: ``ids`` beside it (or labels in the data's order), or
    ``position``: row i, or the row with the id i, is of sample i of the training set."""
    teacher_unaugmented: bool = False
    """Learn stored outputs, which are of the samples as they are, for samples that are augmented."""

    @property
    def named_loss(self) -> Component:
        """The loss, where it has a name.

        Raises:
            InputError: it was an object.
        """
        if self.loss is None:
            raise InputError(
                "the recipe names no loss, as an object stood in for it; give loss=, the name of one or the object",
                argument="loss",
            )
        return self.loss

    @model_validator(mode="before")
    @classmethod
    def _weights_as_published(cls, raw: Any) -> Any:
        """A sum weighs its parts itself, and what looks into the models is weighed as it was published."""
        if not isinstance(raw, Mapping):
            return raw
        said: dict[str, Any] = dict(raw)
        if "loss" in said:
            said["loss"] = weighed_parts(said["loss"], said.get("model"))
        return {**published_weights(said.get("loss"), said.get("model")), **said}

    @model_validator(mode="after")
    def _some_weight(self) -> "DistillRecipe":
        if self.ce_weight == self.distill_weight == 0:
            raise ValueError("ce_weight and distill_weight are both 0; a student needs something to learn from")
        if self.ce_weight == 0 and self.label_loss != Component(name="cross_entropy"):
            raise ValueError(
                f"label_loss is '{self.label_loss.name}', but ce_weight, its weight, is 0; give ce_weight=0.1, say, or "
                "leave label_loss out"
            )
        return self
