"""The one training loop, for teachers and students, single models and stacks, on accelerate."""

import contextlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.recipe import Recipe
from preceptor.teaching import average_weights
from preceptor.training import checkpoint
from preceptor.training.batches import Batch, Batches, Shard, StackedBatches
from preceptor.training.metrics import MetricsLog
from preceptor.training.schedule import make_optimizer, multiplier, set_lr
from preceptor.training.stack import Stack, clip_each
from preceptor.training.streams import Streams
from preceptor.training.task import Task

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
    sums: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: list[int] = field(default_factory=list)
    best_score: list[float] = field(default_factory=list)


def make_accelerator(recipe: Recipe, folder: Path | None) -> Accelerator:
    """An accelerator for this recipe's device, precision and trackers.

    Raises:
        InputError: fp16 on a CPU, where autocast would silently compute in float32; an unknown or missing tracker.
    """
    training = recipe.training
    on_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    if training.precision == "fp16" and on_cpu:
        raise InputError(
            "training.precision is 'fp16', which on a CPU would silently run in float32; use bf16 or fp32 there"
        )
    AcceleratorState._reset_state()  # several runs in one process may differ in precision
    try:
        return Accelerator(
            cpu=training.device == "cpu",
            mixed_precision="no" if training.precision == "fp32" else training.precision,
            log_with=list(training.trackers) or None,  # type: ignore[arg-type]
            project_dir=str(folder) if folder else None,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"training.trackers is {list(training.trackers)}: {error}") from None


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
        self.lead = (task.model.size,) if isinstance(task.model, Stack) else ()
        self.streams = Streams(recipe.seed, recipe.streams)
        self.progress = Progress()
        self.latest: Scores = {}
        self._interrupted = False
        warn_of_batch_statistics(task, accelerator.num_processes, recipe.training.accumulate)
        self._set_up()

    def _set_up(self) -> None:
        self.raw_model = self.task.model.to(self.accelerator.device)
        if self.task.state is not None:
            self.task.state.to(self.accelerator.device)
        average = self.recipe.average
        self.averaged = average_weights(self.raw_model, kind=average.kind, decay=average.decay) if average else None
        optimizer = make_optimizer(self.raw_model.parameters(), self.recipe.optimizer)
        self.task.model, self.optimizer = self.accelerator.prepare(self.raw_model, optimizer)
        self.best = {name: tensor.detach().clone() for name, tensor in self.raw_model.state_dict().items()}
        self.metrics = MetricsLog(self.folder, self.accelerator.is_main_process)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch, from the last checkpoint if there is one.

        Raises:
            InputError: the logits are not finite, or a checkpoint is damaged or of another model.
            Interrupted: Ctrl-C; the state is saved first.
        """
        self._resume()
        with self._catch_interrupt():
            while self.progress.epoch < self.recipe.training.epochs:
                self._epoch()

    def _epoch(self) -> None:
        progress, started = self.progress, time.perf_counter()
        self.task.start_epoch(progress.epoch, self.recipe.training.epochs)
        shard = Shard(
            self.accelerator.process_index, self.accelerator.num_processes, self.recipe.training.accumulate
        )
        for micro_batches in self.batches.epoch(progress.epoch, start=progress.step_in_epoch, shard=shard):
            self._step(micro_batches)
            progress.step += 1
            progress.step_in_epoch += 1
            self.on_step(progress.step, self.total_steps, self.latest)
            self._between_steps()
        self._end_epoch(time.perf_counter() - started)

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
                loss = output["loss"]
                penalty = self.task.penalty() if last else None
            self._refuse_nan(loss, output["logits"], batch)
            self._record(output)
            # DDP averages gradients over processes; each loss is already a share of one global mean.
            total = loss * self.accelerator.num_processes
            if penalty is not None:
                total = total + penalty.sum()
                self._add("penalty", penalty)
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
        bad = ~logits.isfinite().all(-1) & batch["mask"]
        epoch = self.progress.epoch
        kept = self.folder and checkpoint.saved(self.folder / "checkpoints")
        where = f"; the last good checkpoint is '{kept[-1]}'" if kept else ""
        remedy = "lower optimizer.lr or set training.clip_norm"
        if bad.any():
            sample = int(batch["index"][bad][0])
            raise InputError(f"the logits of sample {sample} are not finite in epoch {epoch}; {remedy}{where}")
        raise InputError(f"the loss is {loss.item()} in epoch {epoch} though the logits are finite; {remedy}{where}")

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def _record(self, output: Mapping[str, Tensor]) -> None:
        for name, value in output.items():
            if name not in ("loss", "logits"):
                self._add(name, value)

    def _add(self, name: str, value: Tensor) -> None:
        """Add to the epoch's sum of a part of the loss (one sum per model)."""
        value = value.detach().double().reshape(-1)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    _sums: dict[str, Tensor]

    def _end_epoch(self, seconds: float) -> None:
        progress = self.progress
        self.latest = self.evaluate(self.evaluated_model())
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
        self.save()

    def _means(self) -> dict[str, Any]:
        """The mean over the epoch's steps of each part of the loss."""
        means = {}
        for name, total in self._sums.items():
            shared = self.accelerator.reduce(total.clone(), "sum") if name != "penalty" else total
            mean = shared / self.batches.steps_per_epoch  # type: ignore[operator]
            means[name] = mean.tolist() if self.lead else mean.item()
        return means

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
            progress.best_score, progress.best_epoch = [float("inf")] * len(score), [0] * len(score)
        better = score < torch.tensor(progress.best_score)
        for model in better.nonzero().flatten().tolist():
            progress.best_score[model], progress.best_epoch[model] = score[model].item(), progress.epoch
        if better.any():
            rows = better.to(self.accelerator.device) if self.lead else ...
            for name, tensor in self.evaluated_model().state_dict().items():
                self.best[name][rows] = tensor[rows]

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        if self._interrupted:
            self.save()
            raise Interrupted
        every = self.recipe.training.checkpoint_every
        if every and self.progress.step % every == 0 and self.progress.step_in_epoch < self.batches.steps_per_epoch:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of this very moment."""
        self.accelerator.wait_for_everyone()
        if self.folder is None or not self.accelerator.is_main_process:
            return
        optimizer_tensors, optimizer_values = checkpoint.flatten_optimizer(self.optimizer)
        scopes: dict[str, Mapping[str, Tensor]] = {
            "model": self.raw_model.state_dict(),
            "optimizer": optimizer_tensors,
            "best": self.best,
            "average": self.averaged.state_dict() if self.averaged is not None else {},
            "objective": self.task.state.state_dict() if self.task.state is not None else {},
        }
        tensors = {name: t for scope, group in scopes.items() for name, t in checkpoint.scoped(scope, group).items()}
        state = {
            "progress": vars(self.progress) | {"sums": {name: total.tolist() for name, total in self._sums.items()}},
            "optimizer": optimizer_values,
            "streams": self.streams.seeds,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        folder = self.folder / "checkpoints"
        checkpoint.save(folder, checkpoint.name(self.progress.epoch, self.progress.step), tensors, state)
        if self.recipe.training.keep == "last":
            checkpoint.prune(folder)

    def _resume(self) -> None:
        self._sums = {}
        found = checkpoint.saved(self.folder / "checkpoints") if self.folder else []
        if not found:
            self.metrics.cut(0)
            return
        tensors, state = checkpoint.load(found[-1])
        load_weights(self.raw_model, checkpoint.within("model", tensors), f"the checkpoint '{found[-1]}'")
        checkpoint.restore_optimizer(self.optimizer, checkpoint.within("optimizer", tensors), state["optimizer"])
        self.best = {n: t.to(self.accelerator.device) for n, t in checkpoint.within("best", tensors).items()}
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint.within("average", tensors))
        if self.task.state is not None:
            self.task.state.load_state_dict(checkpoint.within("objective", tensors))
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        sums = state["progress"].pop("sums")
        self._sums = {n: torch.tensor(v, dtype=torch.float64, device=self.accelerator.device) for n, v in sums.items()}
        self.progress = Progress(**state["progress"])
        self.metrics.cut(self.progress.metrics_bytes)

    @contextlib.contextmanager
    def _catch_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) saves at the next step; the second ends at once."""

        def handle(number: int, frame: Any) -> None:
            if self._interrupted:
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
                signal.signal(number, handler)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        InputError: it is another architecture's; the first tensor that does not fit is named.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model lacks"
        raise InputError(f"{source} is of another architecture: it {what}; give the model that it was trained with")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{source} is of another architecture: '{name}' has shape {tuple(tensor.shape)}, the model's has "
                f"{tuple(own[name].shape)}; give the model that it was trained with"
            )
    model.load_state_dict(dict(tensors))


def warn_of_batch_statistics(task: Task, processes: int, accumulate: int) -> None:
    """Say once where micro-batches or processes cannot give what one batch gives."""
    if processes * accumulate == 1:
        return
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in task.model.modules())
    cause = "batch normalisation" if normed else "a batch-level loss" if task.batch_level else None
    if cause:
        warnings.warn(
            f"{cause} sees one micro-batch at a time: with {processes} process(es) x {accumulate} micro-batch(es) the "
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
