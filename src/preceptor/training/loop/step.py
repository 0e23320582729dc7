"""One optimizer step of a task, over micro-batches and processes, and what is summed up along an epoch."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.inputs import each
from preceptor.losses.targets import Targets
from preceptor.notices import note
from preceptor.recipe import Optimizer, Recipe, Schedule
from preceptor.tasks.stack import Stack, clip_each
from preceptor.tasks.task import DistillTask, Task
from preceptor.training.data.batches import Batch
from preceptor.training.data.streams import Streams
from preceptor.training.engine.compiling import CannotCapture, Captured, compile_task, why_not_captured
from preceptor.training.engine.device import Accelerator, sum_dtype
from preceptor.training.engine.watch import Watch
from preceptor.training.objects.own import Own
from preceptor.training.optim.optimizers import (
    made_optimizer,
    made_scheduler,
    own_optimizer,
    own_scheduler,
    parameter_groups,
    replayed,
    scaled,
)
from preceptor.training.optim.schedule import make_optimizer, multiplier, set_lr
from preceptor.training.optim.sgld import SGLD
from preceptor.training.scoring.evaluate import refuse_input_not_finite, refuse_not_finite, refuse_teacher_not_finite


class Stepper:
    """A task with its optimizer: makes steps, one batch at a time.

    Args:
        task: maps a batch to a loss; holds the model.
        recipe: of its optimizer, schedule and training.
        accelerator: device, processes, precision.
        steps_per_epoch: for the schedule.
        num_samples: of the training set, for an optimizer that must know.
        own: perhaps an optimizer and a scheduler of somebody's own.

    Attributes:
        raw_model: the model itself, which `task.model` may wrap for several processes.
        trained: the parameters of the model, and of a criterion that has some of its own.
        sums: of each part of the loss over the epoch so far, this process's share.
        captures: whether a step is one CUDA graph.
        watch: where to look at each loss would wait for the device: what remembers the first that is not finite.
    """

    task: Task
    recipe: Recipe
    accelerator: Accelerator
    watch: Watch | None

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        accelerator: Accelerator,
        steps_per_epoch: int,
        own: Own | None = None,
        *,
        num_samples: int = 1,
    ) -> None:
        self.task, self.recipe, self.accelerator = task, recipe, accelerator
        self.num_samples: int = num_samples
        self.steps_per_epoch = steps_per_epoch
        self.lead: tuple[int, ...] = (task.model.size,) if isinstance(task.model, Stack) else ()
        self.streams: Streams = Streams(recipe.seed, recipe.streams)
        self.sums: dict[str, Tensor] = {}
        self.raw_model: nn.Module = task.model.to(accelerator.device)
        state = task.state
        self.own: list[nn.Parameter] = [] if state is None else list(state.to(accelerator.device).parameters())
        self.trained: list[nn.Parameter] = [*self.raw_model.parameters(), *self.own]
        optimizer, heeds = self._made_optimizer(own or Own())
        self.rates: list[float] = [float(group["lr"]) for group in optimizer.param_groups]
        self._bare_optimizer: torch.optim.Optimizer = optimizer
        self.optimizer: torch.optim.Optimizer
        task.model, self.optimizer = accelerator.prepare(self.raw_model, optimizer)
        found = own_scheduler(recipe, own or Own())
        steps = steps_per_epoch * recipe.training.epochs
        self.scheduler: Any = None if found is None else made_scheduler(found[0], optimizer, steps, found[1])
        self.watch = Watch(optimizer, accelerator.device) if heeds and _is_asynchronous(accelerator) else None
        self._channels_last: bool = is_channels_last(self.raw_model)
        self._captured: Captured | None = None
        self.captures: bool = self._prepare_speed()

    def _made_optimizer(self, own: Own) -> tuple[torch.optim.Optimizer, bool]:
        """The optimizer, and whether it heeds the watch, as torch's fused ones do."""
        recipe = self.recipe.optimizer
        groups = parameter_groups(self.task.model, self.task.parts, recipe, self.task.state)
        found = own_optimizer(self.recipe, own)
        if found is not None:
            return made_optimizer(found[0], groups, found[1]), False
        assert isinstance(recipe, Optimizer)
        made = make_optimizer(scaled(groups, recipe.lr), recipe, num_samples=self.num_samples)
        return made, not isinstance(made, SGLD)

    def rewind(self, step: int) -> None:
        """Put somebody's own scheduler to where it is after so many steps of the run; the optimizer is new."""
        if self.scheduler is not None:
            self.rates = replayed(self.scheduler, self._bare_optimizer, step)

    def _prepare_speed(self) -> bool:
        """Compile the models where the recipe asks for it; whether a step is to be captured, too."""
        training, on_gpu = self.recipe.training, self.accelerator.device.type == "cuda"
        if training.compile is True or (training.compile == "auto" and on_gpu):
            size = -(-training.batch_size // training.accumulate)  # of a micro-batch
            compile_task(self.task, size, required=training.compile is True)
        if not (training.compile and on_gpu):
            return False
        reason = why_not_captured(
            self.task,
            micro_batches=training.accumulate,
            processes=self.accelerator.num_processes,
            scaled=self.accelerator.scaler is not None,
        )
        if reason is not None:
            note(f"a step is not captured as a CUDA graph, as {reason}")
        return reason is None

    def step(self, micro_batches: list[Batch], step: int) -> None:
        """The optimizer step number `step` of the run, from 0.

        Raises:
            NotFinite, InputError: the logits, or the loss, are not finite.
        """
        self.seed(step)
        self.task.model.train()
        micro_batches = [self.laid_out(batch) for batch in micro_batches]
        count = self._count(micro_batches)
        last = len(micro_batches) - 1
        seen = [self._backward(batch, count, step, last=i == last) for i, batch in enumerate(micro_batches)]
        self._optimize(step)
        self._share_statistics()
        if self.task.observes:
            self.task.observe(*self._gather_outputs(seen, micro_batches))
        if self.task.ends_steps:
            self.task.end_step(self._gather_rows)

    def look_at_once(self) -> None:
        """From now on look at each loss as soon as it is there, which a captured step cannot."""
        self.watch, self.captures = None, False

    def seed(self, step: int) -> None:
        """Dropout and the like draw from the global generator: a stream of its own, by step and process."""
        torch.manual_seed(self.streams.seed("dropout", step, self.accelerator.process_index))

    def laid_out(self, batch: Batch) -> Batch:
        """Images in the layout of the model's convolutions, so that a teacher computes in it, too."""
        if not self._channels_last:
            return batch
        lay_out = lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t  # noqa: E731
        return {**batch, "input": each(batch["input"], lay_out)}

    def means(self, steps: int) -> dict[str, Any]:
        """The mean over the epoch's steps, so many, of each part of the loss: a number, or one per model."""
        means = {name: total / steps for name, total in self.totals().items()}
        return {name: mean.tolist() if self.lead else mean.item() for name, mean in means.items()}

    def totals(self) -> dict[str, Tensor]:
        """The epoch's sums, over all processes."""
        return {n: self.accelerator.reduce(share.clone(), "sum") for n, share in self.sums.items()}  # type: ignore[misc]

    def _count(self, micro_batches: list[Batch]) -> Tensor:
        """Unmasked examples of the whole optimizer step, per model, over micro-batches and processes."""
        count = torch.stack([b["mask"].flatten(len(self.lead)).sum(-1) for b in micro_batches]).sum(0)
        return self.accelerator.reduce(count, "sum").clamp(min=1)  # type: ignore[union-attr]

    def _backward(self, batch: Batch, count: Tensor, step: int, *, last: bool) -> Tensor:
        """The gradients of a micro-batch, added to those there are; its logits."""
        synchronized = contextlib.nullcontext() if last else self.accelerator.no_sync(self.task.model)
        with synchronized:
            output = self._replayed(batch, count, step) if self.captures else self._pass(batch, count, last=last)
        if self.watch is not None:
            self.watch.see(output["loss"])
        self._record(output)
        return output["logits"]

    def _pass(self, batch: Batch, count: Tensor, *, last: bool) -> dict[str, Tensor]:
        """Forward and backward; every value but the logits is this process's share of it."""
        processes = self.accelerator.num_processes
        with self.accelerator.autocast():
            output = self.task(batch, count)
            penalty = self.task.penalty() if last else None
        # DDP averages gradients over processes; each loss is already a share of one global mean.
        total = output["loss"] * processes
        if penalty is not None:
            total = total + penalty.sum()
            output["penalty"] = penalty / processes
        if self.watch is None and not torch.isfinite(total):
            self._refuse_not_finite(total, output["logits"], batch)
        self.accelerator.backward(total)
        return {name: value.detach() for name, value in (output | {"loss": total}).items()}

    def _replayed(self, batch: Batch, count: Tensor, step: int) -> dict[str, Tensor]:
        """The same from one CUDA graph, which is made of the first whole batch, or else said not to be possible."""
        if self._captured is None and len(batch["index"]) == self.recipe.training.batch_size:
            self._captured = self._capture(batch, count)
            self.seed(step)  # as if the passes before the capture had not been
        if self._captured is None or not self._captured.fits(batch):
            return self._pass(batch, count, last=True)
        return self._captured(batch, count)

    def _capture(self, batch: Batch, count: Tensor) -> Captured | None:
        modules = [each for each in (self.raw_model, self.task.state) if each is not None]
        once = functools.partial(self._pass, last=True)
        try:
            return Captured(once, batch, count, trained=self.trained, modules=modules)
        except CannotCapture as error:
            note(f"a step is not captured as a CUDA graph: {error}")
            self.captures = False
            return None

    def _refuse_not_finite(self, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        """Say who is to blame for a loss that is not finite: input, model, teacher, or else the criterion."""
        refuse_input_not_finite(batch)
        refuse_not_finite(logits, batch["index"], batch["mask"])
        if isinstance(self.task, DistillTask):
            with torch.no_grad():
                said = self.task.teacher(batch)
            said = said.log_probs if isinstance(said, Targets) else said
            if said.shape[:-1] == batch["mask"].shape:  # a record of tokens answers for those that count alone
                refuse_teacher_not_finite(said, batch["index"], batch["mask"])
        raise LossNotFinite(loss.item())

    def _optimize(self, step: int) -> None:
        schedule, epochs = self.recipe.schedule, self.recipe.training.epochs
        if self.scheduler is None and isinstance(schedule, Schedule):
            factor = multiplier(schedule, step, steps_per_epoch=self.steps_per_epoch, epochs=epochs)
            set_lr(self.optimizer, [rate * factor for rate in self.rates])
        self._average_own_gradients()
        if self.task.waits:
            self._leave_idle()
        max_norm = self.recipe.training.clip_norm
        if max_norm is not None and self.lead:
            self.accelerator.unscale_gradients()
            clip_each(self.trained, max_norm)
        elif max_norm is not None:
            self.accelerator.clip_grad_norm_([*self.task.model.parameters(), *self.own], max_norm)
        if self.watch is not None:
            self.watch.end_step(step)
        if isinstance(self._bare_optimizer, SGLD):
            self._bare_optimizer.seed(self.streams.seed("noise", step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()

    def _average_own_gradients(self) -> None:
        """Of a criterion's parameters over processes, as DDP does for the model's."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.own:
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def _leave_idle(self) -> None:
        """Take away gradients of nothing but 0, as of a student that waits, or weight decay would shrink it."""
        for parameter in self.trained:
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    def _share_statistics(self) -> None:
        """Of the norms among a criterion's parts those of the first process, as DDP does for the model's."""
        if self.accelerator.num_processes == 1 or self.task.state is None:
            return
        for module in self.task.state.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for buffer in module.buffers():
                    buffer.copy_(broadcast(buffer.clone()))  # type: ignore[arg-type]

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

    @torch.no_grad()
    def _gather_rows(self, rows: Tensor) -> Tensor:
        """Rows (n, ...) of all processes, which may have different n, one process's after the other's."""
        if self.accelerator.num_processes == 1:
            return rows
        counts = self.accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = self.accelerator.gather(padded).unflatten(0, (len(counts), -1))
        return torch.cat([each[:count] for each, count in zip(gathered, counts, strict=True)])

    def _record(self, output: Mapping[str, Tensor]) -> None:
        """Add the parts of the loss to the epoch's sums; every value is this process's share of it."""
        for name, value in output.items():
            if name in ("loss", "logits"):
                continue
            value = value.to(sum_dtype(value.device), copy=True).reshape(-1)  # a captured one is overwritten
            self.sums[name] = self.sums[name] + value if name in self.sums else value


def _is_asynchronous(accelerator: Accelerator) -> bool:
    """Whether to look at a loss would wait for a device, and nobody looks anyway (other processes, a scaler)."""
    return accelerator.device.type == "cuda" and accelerator.num_processes == 1 and accelerator.scaler is None


def is_channels_last(model: nn.Module) -> bool:
    """Whether its convolutions have weights in the layout (output, height, width, input)."""
    kernels = [weight for weight in model.parameters() if weight.ndim == 4 and not weight.is_contiguous()]
    return any(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


class LossNotFinite(InputError):
    """The loss is NaN or infinite though the logits are finite."""

    def __init__(self, value: float) -> None:
        super().__init__(f"the loss is {value} though the model's logits are finite")
        self.value = value
