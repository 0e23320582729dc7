"""The one training loop, for teachers and students, single models and stacks, on accelerate."""

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from preceptor.errors import InputError
from preceptor.recipe import Recipe
from preceptor.runs import checkpoint, load_weights
from preceptor.runs.files import remove_left_overs
from preceptor.runs.metrics import MetricsLog
from preceptor.tasks.stack import Stack, clip_each
from preceptor.tasks.task import Task
from preceptor.training.averaging import average_weights
from preceptor.training.batches import Batch, Batches, Shard, StackedBatches
from preceptor.training.device import Accelerator
from preceptor.training.evaluate import NotFinite, refuse_not_finite
from preceptor.training.schedule import make_optimizer, multiplier, set_lr
from preceptor.training.streams import Streams

_HAVE_FLOAT64 = {"cpu", "cuda"}
Scores = dict[str, Any]
Evaluate = Callable[[nn.Module], Scores]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the state was saved."""


@dataclass
class Progress:
    """How far a run is: everything a checkpoint must know beside tensors."""

    epoch: int = 0
    step: int = 0  # optimizer steps in all
    step_in_epoch: int = 0
    metrics_bytes: int = 0
    best_epoch: list[int] = field(default_factory=list)
    best_score: list[float] = field(default_factory=list)


def make_accelerator(recipe: Recipe, folder: Path | None) -> Accelerator:
    """An accelerator for this recipe's device, precision and, if there is a run folder, trackers.

    Raises:
        InputError: fp16 on a CPU, where autocast would silently compute in float32; an unknown or missing
            tracker.
    """
    training, trackers = recipe.training, list(recipe.training.trackers) if folder else []
    on_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    if training.precision == "fp16" and on_cpu:
        raise InputError(
            "training.precision is 'fp16', which on a CPU would silently run in float32; use bf16 or fp32 there"
        )
    AcceleratorState._reset_state()  # several runs in one process may differ in precision
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no supported trackers")  # refused below
            accelerator = Accelerator(
                cpu=training.device == "cpu",
                mixed_precision="no" if training.precision == "fp32" else training.precision,
                log_with=trackers or None,  # type: ignore[arg-type]
                project_dir=str(folder) if folder else None,
            )
    except ValueError as error:
        raise InputError(f"training.trackers is {trackers}: {error}") from None
    missing = set(trackers) - {str(tracker) for tracker in accelerator.log_with}
    if missing:  # accelerate would go on without it
        name = min(missing)
        raise InputError(f"the tracker '{name}' is not installed; run pip install {name}, or remove it")
    return accelerator


class Loop:
    """Trains a task's model; kill it at any moment and it goes on from its last checkpoint to the same end.

    Args:
        task: maps a batch to a loss; holds the model.
        batches: of the training set.
        recipe: optimizer, schedule, epochs, precision...
        evaluate: a model to its held-out scores, each a number or one per model; called once an epoch.
        accelerator: device, processes, precision.
        folder: where checkpoints and ``metrics.jsonl`` go; None keeps nothing.
        on_step: called after each optimizer step with (steps done, steps in all, latest scores).
    """

    task: Task
    batches: Batches | StackedBatches
    recipe: Recipe
    evaluate: Evaluate
    folder: Path | None
    on_step: Callable[[int, int, Scores], object]
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    progress: Progress

    def __init__(
        self,
        task: Task,
        batches: Batches | StackedBatches,
        recipe: Recipe,
        evaluate: Evaluate,
        accelerator: Accelerator,
        *,
        folder: Path | None = None,
        on_step: Callable[[int, int, Scores], None] | None = None,
    ) -> None:
        self.task, self.batches, self.recipe, self.evaluate = task, batches, recipe, evaluate
        self.accelerator, self.folder, self.on_step = accelerator, folder, on_step or (lambda *_: None)
        self.lead: tuple[int, ...] = (task.model.size,) if isinstance(task.model, Stack) else ()
        self.streams: Streams = Streams(recipe.seed, recipe.streams)
        self.progress = Progress()
        self.latest: Scores = {}
        self._sums: dict[str, Tensor] = {}  # of each part of the loss over the epoch so far
        self._interrupted = False
        self._started = time.perf_counter()  # put back by what earlier starts of this run took
        if accelerator.is_main_process:
            warn_of_batch_statistics(task, accelerator.num_processes, recipe.training.accumulate)
        self._set_up()

    def _set_up(self) -> None:
        self.raw_model: nn.Module = self.task.model.to(self.accelerator.device)
        if self.task.state is not None:
            self.task.state.to(self.accelerator.device)
        average = self.recipe.average
        self.averaged: AveragedModel | None = (
            average_weights(self.raw_model, kind=average.kind, decay=average.decay) if average else None
        )
        optimizer = make_optimizer(self.raw_model.parameters(), self.recipe.optimizer)
        self.task.model, self.optimizer = self.accelerator.prepare(self.raw_model, optimizer)
        self.best = {name: tensor.detach().clone() for name, tensor in self.raw_model.state_dict().items()}
        self.metrics: MetricsLog = MetricsLog(self.folder, self.accelerator.is_main_process)

    # -- running ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch, from the last checkpoint if there is one.

        Raises:
            InputError: the logits are not finite, or a checkpoint is damaged or of another model.
            Interrupted: Ctrl-C; the state is saved first.
        """
        self._resume()
        here = self.accelerator.device
        # The global generator is lent to the run and given back as it was.
        with self._catch_interrupt(), torch.random.fork_rng([here] if here.type == "cuda" else []):
            while self.progress.epoch < self.recipe.training.epochs:
                self._epoch()

    def _epoch(self) -> None:
        """One epoch, or the rest of one, with its evaluation, its line of metrics and its checkpoint."""
        progress, started = self.progress, time.perf_counter()
        self.task.start_epoch(progress.epoch, self.recipe.training.epochs)
        shard = Shard(self.accelerator.process_index, self.accelerator.num_processes, self.recipe.training.accumulate)
        for micro_batches in self.batches.epoch(progress.epoch, start=progress.step_in_epoch, shard=shard):
            self._step(micro_batches)
            progress.step += 1
            progress.step_in_epoch += 1
            self.on_step(progress.step, self.total_steps, self.latest)
            self._between_steps()
        self._end_epoch(time.perf_counter() - started)
        if self._asked_to_stop():
            self.save()
            raise Interrupted

    @property
    def time_total(self) -> float:
        """Seconds of work in this run so far; what a kill made undone is not in it."""
        return time.perf_counter() - self._started

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.batches.steps_per_epoch * self.recipe.training.epochs

    def _step(self, micro_batches: list[Batch]) -> None:
        # Dropout and the like draw from the global generator: a stream of its own, by step and process.
        torch.manual_seed(self.streams.seed("dropout", self.progress.step, self.accelerator.process_index))
        self.task.model.train()
        micro_batches = [
            {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            for batch in micro_batches
        ]
        count = self._count(micro_batches)
        seen = [self._backward(batch, count, last=i == len(micro_batches) - 1) for i, batch in enumerate(micro_batches)]
        self._optimize()
        if self.task.observes:
            self.task.observe(*self._gather_outputs(seen, micro_batches))

    def _count(self, micro_batches: list[Batch]) -> Tensor:
        """Unmasked examples of the whole optimizer step, per model, over micro-batches and processes."""
        count = torch.stack([b["mask"].flatten(len(self.lead)).sum(-1) for b in micro_batches]).sum(0)
        return self.accelerator.reduce(count, "sum").clamp(min=1)  # type: ignore[union-attr]

    def _backward(self, batch: Batch, count: Tensor, *, last: bool) -> Tensor:
        synchronized = contextlib.nullcontext() if last else self.accelerator.no_sync(self.task.model)
        with synchronized:
            with self.accelerator.autocast():
                output = self.task(batch, count)
                penalty = self.task.penalty() if last else None
            self._record(output, penalty)
            # DDP averages gradients over processes; each loss is already a share of one global mean.
            total = output["loss"] * self.accelerator.num_processes
            if penalty is not None:
                total = total + penalty.sum()
            self._refuse_nan(total, output["logits"], batch)
            self.accelerator.backward(total)
        return output["logits"].detach()

    def _optimize(self) -> None:
        factor = multiplier(
            self.recipe.schedule,
            self.progress.step,
            steps_per_epoch=self.batches.steps_per_epoch,
            epochs=self.recipe.training.epochs,
        )
        set_lr(self.optimizer, self.recipe.optimizer.lr * factor)
        max_norm = self.recipe.training.clip_norm
        if max_norm is not None and self.lead:
            self.accelerator.unscale_gradients()
            clip_each(list(self.raw_model.parameters()), max_norm)
        elif max_norm is not None:
            self.accelerator.clip_grad_norm_(self.task.model.parameters(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None and self._averaging:
            self.averaged.update_parameters(self.raw_model)

    def _gather_outputs(self, logits: list[Tensor], batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor]:
        """The step's logits, indices and mask over all micro-batches and processes, on every process."""
        axis = len(self.lead)
        parts = (
            torch.cat(logits, axis),
            torch.cat([b["index"] for b in batches], axis),
            torch.cat([b["mask"] for b in batches], axis),
        )
        if self.accelerator.num_processes == 1:
            return parts
        return tuple(self.accelerator.gather(part.contiguous()) for part in parts)  # type: ignore[return-value]

    def _refuse_nan(self, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        if torch.isfinite(loss):
            return
        try:
            refuse_not_finite(logits, batch["index"], batch["mask"])
        except NotFinite as error:
            raise self._diverged(error) from None
        raise InputError(
            f"the loss is {loss.item()} in epoch {self.progress.epoch} though the model's logits are finite; "
            f"look for NaN in what the teacher or the objective gives{self._last_good()}"
        )

    def _diverged(self, error: NotFinite) -> InputError:
        return InputError(
            f"{error} in epoch {self.progress.epoch}; lower optimizer.lr or set training.clip_norm{self._last_good()}"
        )

    def _last_good(self) -> str:
        found = checkpoint.saved(self.folder / "checkpoints") if self.folder else []
        return f"; the last good checkpoint is '{found[-1]}'" if found else ""

    # -- what is recorded ------------------------------------------------------------------------------------

    def _record(self, output: Mapping[str, Tensor], penalty: Tensor | None) -> None:
        """Add the parts of the loss to the epoch's sums; every value is this process's share of it."""
        parts = {name: value for name, value in output.items() if name not in ("loss", "logits")}
        if penalty is not None:
            parts["penalty"] = penalty / self.accelerator.num_processes
        for name, value in parts.items():
            value = value.detach().to(sum_dtype(value.device)).reshape(-1)
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _end_epoch(self, seconds: float) -> None:
        progress = self.progress
        try:
            self.latest = self.evaluate(self.evaluated_model())
        except NotFinite as error:
            raise self._diverged(error) from None
        self._keep_best()
        line = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train": self._means(),
            "heldout": self.latest,
            "time_epoch": round(seconds, 3),
        }
        self._sums = {}
        progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        progress.metrics_bytes = self.metrics.append(line)
        if self.recipe.training.trackers:
            self.accelerator.log(_flat(line), step=progress.step)
        if self.recipe.training.is_checkpoint(progress.epoch):
            self.save()

    def _means(self) -> dict[str, Any]:
        """The mean over the epoch's steps of each part of the loss: a number, or one per model."""
        means = {name: total / self.batches.steps_per_epoch for name, total in self._totals().items()}
        return {name: mean.tolist() if self.lead else mean.item() for name, mean in means.items()}

    def _totals(self) -> dict[str, Tensor]:
        """The epoch's sums, over all processes."""
        return {n: self.accelerator.reduce(share.clone(), "sum") for n, share in self._sums.items()}  # type: ignore[misc]

    @property
    def _averaging(self) -> bool:
        average = self.recipe.average
        return average is not None and self.progress.epoch >= average.start_epoch

    def evaluated_model(self) -> nn.Module:
        """The averaged weights where the recipe asks for an average and it has begun, else the model."""
        return self.averaged.module if self.averaged is not None and self._averaging else self.raw_model

    def _keep_best(self) -> None:
        """Keep a copy of each model's weights where its held-out score is the best so far."""
        sign = -1.0 if self.recipe.training.select == "accuracy" else 1.0
        score = torch.as_tensor(self.latest[self.recipe.training.select], dtype=torch.float64).reshape(-1) * sign
        progress = self.progress
        if not progress.best_score:
            progress.best_score, progress.best_epoch = [math.inf] * len(score), [0] * len(score)
        better = score < torch.tensor(progress.best_score, dtype=torch.float64)
        if progress.epoch == 0:  # an infinite score, too, is the best so far
            better[:] = True
        for model in better.nonzero().flatten().tolist():
            progress.best_score[model], progress.best_epoch[model] = score[model].item(), progress.epoch
        if better.any():
            rows = better.to(self.accelerator.device) if self.lead else ...
            for name, tensor in self.evaluated_model().state_dict().items():
                self.best[name][rows] = tensor[rows]

    # -- saving and resuming ---------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        if self._asked_to_stop():
            self.save()
            raise Interrupted
        every = self.recipe.training.checkpoint_every
        if every and self.progress.step % every == 0 and self.progress.step_in_epoch < self.batches.steps_per_epoch:
            self.save()

    def _asked_to_stop(self) -> bool:
        """Whether any process was interrupted: all leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return self._interrupted
        flag = torch.tensor(float(self._interrupted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)  # type: ignore[operator]

    def save(self) -> None:
        """Write a checkpoint of this very moment, unless the weights have just diverged: the last good one stays.

        Raises:
            InputError: the disk is full.
        """
        sums = {name: total.tolist() for name, total in self._totals().items()}
        if self.folder and self.accelerator.is_main_process and _all_finite(self.raw_model):
            folder = self.folder / "checkpoints"
            name = checkpoint.name(self.progress.epoch, self.progress.step)
            checkpoint.save(folder, name, self._tensors(), self._state(sums))
            self._prune()
        self.accelerator.wait_for_everyone()

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors that decide how the run goes on, and the best weights."""
        scopes: dict[str, Mapping[str, Tensor]] = {
            "model": self.raw_model.state_dict(),
            "optimizer": checkpoint.flatten_optimizer(self.optimizer)[0],
            "best": self.best,
            "average": self.averaged.state_dict() if self.averaged is not None else {},
            "objective": self.task.state.state_dict() if self.task.state is not None else {},
        }
        return {
            name: tensor for scope, group in scopes.items() for name, tensor in checkpoint.scoped(scope, group).items()
        }

    def _state(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Everything else."""
        return {
            "progress": vars(self.progress),
            "sums": sums,
            "optimizer": checkpoint.flatten_optimizer(self.optimizer)[1],
            "streams": self.streams.seeds,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "time_total": round(self.time_total, 3),
        }

    def _prune(self) -> None:
        if self.folder and self.accelerator.is_main_process and self.recipe.training.keep == "last":
            checkpoint.prune(self.folder / "checkpoints")

    def _resume(self) -> None:
        if self.folder and self.accelerator.is_main_process:
            remove_left_overs(self.folder)
            remove_left_overs(self.folder / "checkpoints")
        found = checkpoint.saved(self.folder / "checkpoints") if self.folder else []
        if not found:
            self.metrics.cut(0)
            return
        tensors, state = checkpoint.load(found[-1])
        self._started -= state.get("time_total", 0.0)  # older checkpoints do not say
        load_weights(self.raw_model, checkpoint.within("model", tensors), f"the checkpoint '{found[-1]}'")
        checkpoint.restore_optimizer(self.optimizer, checkpoint.within("optimizer", tensors), state["optimizer"])
        self.best = {n: t.to(self.accelerator.device) for n, t in checkpoint.within("best", tensors).items()}
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint.within("average", tensors))
        if self.task.state is not None:
            load_weights(self.task.state, checkpoint.within("objective", tensors), f"the objective in '{found[-1]}'")
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for name, total in state["sums"].items():
            here = self.accelerator.device
            share = torch.tensor(total, dtype=sum_dtype(here), device=here)
            self._sums[name] = share if self.accelerator.is_main_process else torch.zeros_like(share)
        self.progress: Progress = Progress(**state["progress"])
        # JSON has no infinity: it is stored as null.
        self.progress.best_score = [math.inf if score is None else score for score in self.progress.best_score]
        self.metrics.cut(self.progress.metrics_bytes)
        self._prune()  # what a kill right after saving left

    @contextlib.contextmanager
    def _catch_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) saves at the next step; the second ends at once.

        One of several processes does not end by itself: its launcher passes on a Ctrl-C that it has had
        already.
        """

        def handle(number: int, frame: Any) -> None:
            if self._interrupted and self.accelerator.num_processes == 1:
                raise KeyboardInterrupt
            self._interrupted = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(number, handle) for number in numbers]
        except ValueError:  # not in the main thread: signals are somebody else's business
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def sum_dtype(device: torch.device) -> torch.dtype:
    """In what an epoch's sums are kept: float64, where the device has it (MPS and some others do not)."""
    return torch.float64 if device.type in _HAVE_FLOAT64 else torch.float32


def _all_finite(model: nn.Module) -> bool:
    return bool(torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all())


def warn_of_batch_statistics(task: Task, processes: int, accumulate: int) -> None:
    """Say once where micro-batches or processes cannot give what one batch gives."""
    if processes * accumulate == 1:
        return
    model: nn.Module = task.model.template if isinstance(task.model, Stack) else task.model  # type: ignore[assignment]
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    cause = "batch normalisation" if normed else "a batch-level loss" if task.batch_level else None
    if cause:
        warnings.warn(
            f"{cause} sees one micro-batch at a time: with {processes} process(es) x {accumulate} "
            "micro-batch(es) the "
            "training curve differs from that of one process and one batch",
            stacklevel=3,
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers as ``{"heldout/brier": ...}``, for trackers; per-model lists are left out."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = value
    return flat
