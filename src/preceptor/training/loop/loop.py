"""The one training loop, for teachers and students, single models and stacks, on accelerate."""

import contextlib
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from preceptor.errors import InputError
from preceptor.inputs import tensors_of
from preceptor.interrupts import Interrupted, Interruption
from preceptor.recipe import Recipe
from preceptor.runs import checkpoint
from preceptor.runs.files import remove_left_overs
from preceptor.runs.metrics import MetricsLog
from preceptor.tasks.task import Task
from preceptor.training.data.batches import Batch, Shard, Source
from preceptor.training.engine.device import Accelerator
from preceptor.training.engine.limits import (
    Timed,
    is_out_of_memory,
    out_of_memory,
    say_if_loading_limits,
    warn_of_batch_statistics,
)
from preceptor.training.engine.watch import LOOK_EVERY
from preceptor.training.loop.parent import last_checkpoint
from preceptor.training.loop.state import Progress, read_checkpoint, write_checkpoint
from preceptor.training.loop.step import LossNotFinite, Stepper
from preceptor.training.objects.callbacks import CallbackFailed, calls
from preceptor.training.objects.own import Own
from preceptor.training.optim.averaging import average_weights
from preceptor.training.scoring.evaluate import NotFinite
from preceptor.training.scoring.selection import Selection

Scores = dict[str, Any]
LARGE = 1e4  # of an input: what a network does not expect
Evaluate = Callable[[nn.Module], Scores]


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
        own: perhaps an optimizer, a scheduler and callbacks of somebody's own.
        selection: what the best epoch is chosen by; by default the recipe's score.
    """

    task: Task
    batches: Source
    recipe: Recipe
    evaluate: Evaluate
    accelerator: Accelerator
    folder: Path | None
    on_step: Callable[[int, int, Scores], object]
    best: dict[str, Tensor]
    progress: Progress

    def __init__(
        self,
        task: Task,
        batches: Source,
        recipe: Recipe,
        evaluate: Evaluate,
        accelerator: Accelerator,
        *,
        folder: Path | None = None,
        on_step: Callable[[int, int, Scores], None] | None = None,
        own: Own | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.task, self.batches, self.recipe, self.evaluate = task, batches, recipe, evaluate
        self.accelerator, self.folder, self.on_step = accelerator, folder, on_step or (lambda *_: None)
        self.selection: Selection = selection or Selection(str(recipe.training.select), recipe.training.maximize)
        callbacks = own.callbacks if own else ()
        self._step_calls, self._epoch_calls = calls(callbacks, "on_step_end"), calls(callbacks, "on_epoch_end")
        self.progress = Progress()
        self.latest: Scores = {}
        self.interruption: Interruption = Interruption(
            alone=accelerator.num_processes == 1 and multiprocessing.parent_process() is None
        )
        self._started = time.perf_counter()  # put back by what earlier starts of this run took
        if accelerator.is_main_process:
            warn_of_batch_statistics(task, accelerator.num_processes, recipe.training.accumulate)
        self.raw_model: nn.Module = task.model.to(accelerator.device)
        average = recipe.average  # a copy of the model as it is, before it is made ready for several processes
        self.averaged: AveragedModel | None = (
            average_weights(self.raw_model, kind=average.kind, decay=average.decay) if average else None
        )
        self.stepper: Stepper = Stepper(
            task, recipe, accelerator, batches.steps_per_epoch, own, num_samples=batches.num_samples
        )
        self.optimizer: torch.optim.Optimizer = self.stepper.optimizer
        self.best = {name: tensor.detach().clone() for name, tensor in self.raw_model.state_dict().items()}
        self.metrics: MetricsLog = MetricsLog(self.folder, accelerator.is_main_process)

    def run(self) -> None:
        """Train to the last epoch, or to where patience or a callback stops, from the last checkpoint if there is one.

        Raises:
            InputError: the logits are not finite, or a checkpoint is damaged or of another model.
            Interrupted: Ctrl-C, TERM or HUP; the state is saved first.
        """
        with self.interruption.caught(), lent_generator(self.accelerator.device):
            for _ in self.steps():
                pass

    def steps(self) -> Iterator[None]:
        """The same step by step, for a caller who makes the steps of several runs in turn and listens for all of them.

        Raises:
            As `run`.
        """
        self._resume()
        return self._steps()

    def _steps(self) -> Iterator[None]:
        while self.progress.epoch < self.recipe.training.epochs and not self.progress.stopped:
            yield from self._epoch()

    @property
    def time_total(self) -> float:
        """Seconds of work in this run so far; what a kill made undone is not in it."""
        return time.perf_counter() - self._started

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.batches.steps_per_epoch * self.recipe.training.epochs

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Copies of the ``last`` and ``best`` weights, and of the ``average`` if there is one."""
        states = {"last": self.raw_model.state_dict(), "best": self.best}
        if self.averaged is not None:
            states["average"] = self.averaged.module.state_dict()
        return {kind: {name: tensor.clone() for name, tensor in state.items()} for kind, state in states.items()}

    # -- an epoch ------------------------------------------------------------------------------------------------------

    def _epoch(self) -> Iterator[None]:
        """One epoch, or the rest of one, with its evaluation, its line of metrics and its checkpoint."""
        progress, started = self.progress, time.perf_counter()
        self.task.start_epoch(progress.epoch, self.recipe.training.epochs)
        shard = Shard(self.accelerator.process_index, self.accelerator.num_processes, self.recipe.training.accumulate)
        loaded = Timed(self.batches.epoch(progress.epoch, start=progress.step_in_epoch, shard=shard))
        for micro_batches in loaded:
            self._step(micro_batches)
            progress.step += 1
            progress.step_in_epoch += 1
            if progress.step % LOOK_EVERY == 0:
                self._look_back()
            self.on_step(progress.step, self.total_steps, self.latest)
            if self._called_back(self._step_calls, progress.step, self.total_steps):
                progress.stopped = "callback"
                break
            self._between_steps()
            yield
        self._look_back()
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)  # else the clock would stop before the work does
        seconds = time.perf_counter() - started
        if progress.epoch == 0 and self.recipe.training.num_workers == 0:
            say_if_loading_limits(loaded.seconds, seconds, self.batches)
        self._end_epoch(seconds)
        self._stop_if_asked()

    def _step(self, micro_batches: list[Batch]) -> None:
        try:
            self.stepper.step(micro_batches, self.progress.step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory() from error
        except NotFinite as error:
            raise self._diverged(
                error,
                largest=max(float(each.abs().max()) for batch in micro_batches for each in tensors_of(batch["input"])),
            ) from None
        except LossNotFinite as error:
            raise InputError(
                f"the loss is {error.value} in epoch {self.progress.epoch} though the model's logits are finite; "
                f"look for NaN in what the teacher or the objective gives{self._last_good()}"
            ) from None
        if self.averaged is not None and self._averaging:
            self.averaged.update_parameters(self.raw_model)

    def _out_of_memory(self) -> InputError:
        """What to do where a step does not fit; the state before it is saved."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        saved = self.progress.step > 0 and self.save()
        return out_of_memory(self.recipe.training, self.accelerator.device, saved=saved)

    def _look_back(self) -> None:
        """Where losses are not looked at in every step: see whether all were finite, and if not, who is to blame.

        Raises:
            InputError: of the first that was not, as if it had been looked at.
        """
        watch, progress = self.stepper.watch, self.progress
        first = None if watch is None else watch.first()
        if first is None:
            return
        self.stepper.look_at_once()  # made once more, from the same weights, it is refused on the spot
        progress.step_in_epoch -= progress.step - first
        progress.step = first
        shard = Shard(0, 1, self.recipe.training.accumulate)
        self._step(next(iter(self.batches.epoch(progress.epoch, start=progress.step_in_epoch, shard=shard))))
        raise InputError(
            f"the loss of step {first} was not finite, and is when the step is made again; look for randomness in the "
            f"model or the data{self._last_good()}"
        )

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
            "train": self.stepper.means(progress.step_in_epoch),
            "heldout": self.latest,
            "time_epoch": round(seconds, 3),
        }
        self.stepper.sums = {}
        progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        progress.metrics_bytes = self.metrics.append(line)
        if self.recipe.training.trackers:
            self.accelerator.log(_flat(line), step=progress.step)
        progress.stopped = progress.stopped or self._stopped()
        if self.recipe.training.is_checkpoint(progress.epoch) or progress.stopped:
            self.save()

    def _stopped(self) -> str:
        """What ends the run after this epoch, before its last one; empty if nothing does."""
        progress, training = self.progress, self.recipe.training
        asked = self._called_back(self._epoch_calls, progress.epoch, self.latest)
        if progress.epoch == training.epochs:
            return ""
        idle = progress.epoch - 1 - max(progress.best_epoch)
        return "callback" if asked else "patience" if training.patience and idle >= training.patience else ""

    def _called_back(self, each: Sequence[Callable[..., bool]], number: int, more: Any) -> bool:
        """Whether one of some callbacks wants to stop: the main process asks them for all.

        Raises:
            CallbackFailed: one has raised an error; the state is saved first.
        """
        if not each:
            return False
        wants, failure = False, None
        if self.accelerator.is_main_process:
            try:
                asked = [call(number, more) for call in each]  # all of them, whatever the first says
                wants = any(asked)
            except CallbackFailed as error:
                failure = error
        said = self._over_processes(2.0 if failure else float(wants))
        if said < 2:
            return said > 0
        after = "; the run is saved as it is and goes on from there" if self.save() else ""
        raise CallbackFailed(f"{failure or 'a callback failed'}{after}") from (failure and failure.__cause__)

    def _over_processes(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.reduce(torch.tensor(value, device=self.accelerator.device), "sum"))  # type: ignore[arg-type]

    def _diverged(self, error: NotFinite, *, largest: float = 0.0) -> InputError:
        """What to do about logits that are not finite, where no input of the batch was above `largest`."""
        remedy = "; lower optimizer.lr or set training.clip_norm"
        if largest > LARGE:
            remedy = f"; the inputs reach {largest:.1e}: scale them, or lower optimizer.lr"
        elif self.progress.step == 0:
            remedy = ", before the first update; look at the initial weights"
        return InputError(f"{error} in epoch {self.progress.epoch}{remedy}{self._last_good()}")

    def _last_good(self) -> str:
        found = checkpoint.saved(self.folder / "checkpoints") if self.folder else []
        return f"; the last good checkpoint is '{found[-1]}'" if found else ""

    @property
    def _averaging(self) -> bool:
        average = self.recipe.average
        return average is not None and self.progress.epoch >= average.start_epoch

    def evaluated_model(self) -> nn.Module:
        """The averaged weights where the recipe asks for an average and it has begun, else the model."""
        return self.averaged.module if self.averaged is not None and self._averaging else self.raw_model

    def _keep_best(self) -> None:
        """Keep a copy of each model's weights where its held-out score is the best so far."""
        sign = -1.0 if self.selection.maximize else 1.0
        score = torch.as_tensor(self.latest[self.selection.name], dtype=torch.float64).reshape(-1) * sign
        progress = self.progress
        if not progress.best_score:
            progress.best_score, progress.best_epoch = [math.inf] * len(score), [0] * len(score)
        better = score < torch.tensor(progress.best_score, dtype=torch.float64)
        if progress.epoch == 0:  # an infinite score, too, is the best so far
            better[:] = True
        for model in better.nonzero().flatten().tolist():
            progress.best_score[model], progress.best_epoch[model] = score[model].item(), progress.epoch
        if better.any():
            rows = better.to(self.accelerator.device) if self.stepper.lead else ...
            for name, tensor in self.evaluated_model().state_dict().items():
                self.best[name][rows] = tensor[rows]

    # -- saving and resuming -------------------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        self._stop_if_asked()
        every = self.recipe.training.checkpoint_every
        if every and self.progress.step % every == 0 and self.progress.step_in_epoch < self.batches.steps_per_epoch:
            self.save()

    def _stop_if_asked(self) -> None:
        """Save and leave if any process was interrupted: all do so at the same step."""
        if self._over_processes(float(self.interruption.asked is not None)) > 0:
            raise Interrupted(self.interruption.asked or signal.SIGINT, saved=self.save())

    def save(self) -> bool:
        """Write a checkpoint of this very moment, if there is a folder for it; whether it was written.

        Raises:
            InputError: the disk is full.
        """
        self._look_back()
        sums = {name: total.tolist() for name, total in self.stepper.totals().items()}
        saved = self.folder is not None
        if self.folder and self.accelerator.is_main_process:
            saved = write_checkpoint(self.folder / "checkpoints", self, sums)
            self._prune()
        self.accelerator.wait_for_everyone()
        return saved

    def _prune(self) -> None:
        if self.folder and self.accelerator.is_main_process and self.recipe.training.keep == "last":
            checkpoint.prune(self.folder / "checkpoints")

    def _resume(self) -> None:
        if self.folder and self.accelerator.is_main_process:
            remove_left_overs(self.folder)
            remove_left_overs(self.folder / "checkpoints")
        found = checkpoint.saved(self.folder / "checkpoints") if self.folder else []
        if found:
            self._started -= read_checkpoint(found[-1], self)
        elif self.recipe.parent is not None:
            read_checkpoint(last_checkpoint(self.recipe.parent), self)
            self.progress.metrics_bytes, self.progress.stopped = 0, ""
        self.metrics.cut(self.progress.metrics_bytes)
        self._prune()  # what a kill right after saving left


@contextlib.contextmanager
def lent_generator(device: torch.device) -> Iterator[None]:
    """Lend torch's global generator to training, and give it back as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers as ``{"heldout/brier": ...}``, for trackers; per-model lists are left out."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = value
    return flat
