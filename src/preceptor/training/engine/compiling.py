"""Models compiled for the shape that they are trained at, and a whole step captured as one CUDA graph."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from preceptor.data.generators import next_draws
from preceptor.errors import InputError
from preceptor.models.hub import has_tokens
from preceptor.notices import note
from preceptor.tasks.stack import Stack
from preceptor.tasks.task import DistillTask, Task, TeachTask
from preceptor.tasks.teacher import Leaf, Teacher, each_leaf
from preceptor.training.data.batches import Batch

Step = Callable[[Batch, Tensor], dict[str, Tensor]]
_WARM_UPS = 3  # passes before a capture, in which libraries choose their kernels and allocate
# Models of one class, such as a Sequential, that are compiled in one process; from its own limit, which is 8, torch
# runs all further ones as they are.
_MOST_COMPILED = 256


class Compiled(nn.Module):
    """A module that is compiled for batches of one size, and runs as it is for others.

    The last batch of an epoch is such another: to compile for it would take longer than it saves. Parameters, buffers
    and mode are the module's own.

    Args:
        module: what is compiled, when it is first called.
        batch_size: of the batches that it is compiled for.
        whose: what a note or an error calls it.
        required: refuse a module that cannot be compiled; else it is noted, and runs as it is.
    """

    module: nn.Module
    batch_size: int
    whose: str
    required: bool

    def __init__(self, module: nn.Module, batch_size: int, whose: str, *, required: bool) -> None:
        super().__init__()
        self.module = module
        self.batch_size, self.whose, self.required = batch_size, whose, required
        self._fast: Callable[..., Any] | None = torch.compile(module, dynamic=False)
        self._proven = False

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        if named and self._fast is not None:  # sequences padded to their batch: each length would be compiled anew
            self._give_up(TypeError("its inputs go by name"))
        if self._fast is None:
            return self.module(*args, **named)
        [input] = args
        if len(input) != self.batch_size:
            return self.module(input)
        if self._proven:
            return self._fast(input)
        try:
            with _compiling():
                said = self._fast(input)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of the model, of the compiler or of the compiler's compiler
            self._give_up(error)
            return self.module(input)
        self._proven = True
        return said

    def _give_up(self, error: Exception) -> None:
        self._fast = None
        reason = f"{self.whose} cannot be compiled ({type(error).__name__}: {_first_line(error)})"
        if self.required:
            raise InputError(f"{reason}; set training.compile to false") from error
        note(f"{reason} and runs as it is")


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """Let torch compile more than its own limit of models, and the backward pass along with the forward pass.

    By itself it would compile the former when gradients are first asked for, where nobody expects an error. Older torch
    has no such setting.
    """
    with contextlib.ExitStack() as settings:
        settings.enter_context(torch._dynamo.config.patch(recompile_limit=_MOST_COMPILED))
        if hasattr(functorch_config, "force_non_lazy_backward_lowering"):
            settings.enter_context(functorch_config.patch(force_non_lazy_backward_lowering=True))
        yield


def compile_task(task: Task, batch_size: int, *, required: bool) -> None:
    """Let a task's model, and the live models that teach it, be compiled when they are first asked.

    Raises:
        InputError: it is `required`, and the task is one whose models are not compiled.
    """
    reason = _why_not_compiled(task)
    if reason is not None and required:
        raise InputError(f"training.compile is true, but {reason}; set it to 'auto' or false")
    if reason is not None:
        note(f"nothing is compiled, as {reason}")
        return
    task.model = Compiled(task.model, batch_size, "the model", required=required)

    def compiled(leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Teacher):
            return leaf
        return leaf.with_model(Compiled(leaf.model, batch_size, "the teacher", required=required))

    if isinstance(task, DistillTask):
        task.teacher = each_leaf(task.teacher, compiled)


def _why_not_compiled(task: Task) -> str | None:
    if isinstance(task.model, Stack):
        return "the models of a stack are computed as one already"
    if task.model is not task.bare:
        return "there are several processes"
    if has_tokens(task.bare):
        return "the inputs of a language model go by name"
    return _looking(task)


def _looking(task: Task) -> str | None:
    """That a criterion looks into the models, or makes views of their inputs, if one does."""
    for each in task.criteria:
        if each.taps("student") or each.taps("teacher"):
            return f"'{each.name}' looks into the models"
        if each.has("views"):
            return f"'{each.name}' makes views of the inputs"
    return None


class Captured:
    """The forward and backward pass of a step as one CUDA graph, replayed for batches of one shape.

    Args:
        function: from a batch and a count to tensors, among them nothing that the host looks at; it makes gradients.
        batch, count: as it will be called.
        trained: the parameters that get gradients; they have none.
        modules: whose buffers the passes before the capture change and must not.

    Raises:
        CannotCapture: the function waits for the device, draws random numbers on the host, or puts new tensors in the
            place of buffers.
    """

    def __init__(
        self, function: Step, batch: Batch, count: Tensor, *, trained: Sequence[Tensor], modules: Sequence[nn.Module]
    ) -> None:
        if isinstance(batch["input"], Mapping):
            raise CannotCapture("its inputs go by name, and may be of another length in each batch")
        self._batch = {name: tensor.clone() for name, tensor in batch.items()}
        self._count = count.clone()
        self._trained = list(trained)
        self._graph = torch.cuda.CUDAGraph()
        kept = Kept(modules)
        draws = next_draws()
        try:
            self._warm_up(function)
            if next_draws() != draws:
                raise CannotCapture("it draws random numbers on the host, which a graph would repeat")
            if (name := kept.replaced()) is not None:
                raise CannotCapture(f"it puts a new tensor in the place of its buffer '{name}', which a graph misses")
            # Other threads may pin the memory of batches meanwhile, which a capture of all threads would not survive.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = function(self._batch, self._count)
        except RuntimeError as error:  # torch's, of any kind
            self._forget_gradients()  # half made, or captured and never computed
            raise CannotCapture(_first_line(error)) from error
        finally:
            kept.put_back()
        self._gradients = [parameter.grad for parameter in self._trained]

    def __call__(self, batch: Batch, count: Tensor) -> dict[str, Tensor]:
        """Make the gradients of a batch; what comes out is overwritten by the next call."""
        for name, tensor in batch.items():
            self._batch[name].copy_(tensor, non_blocking=True)
        self._count.copy_(count, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in zip(self._trained, self._gradients, strict=True):
            parameter.grad = gradient
        return self._output

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the tensors and shapes that were captured."""
        return {n: (t.shape, t.dtype) for n, t in batch.items()} == {
            n: (t.shape, t.dtype) for n, t in self._batch.items()
        }

    def _warm_up(self, function: Step) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function(self._batch, self._count)
                    self._forget_gradients()
                with _refusing_to_wait():  # rather here than in a capture, which is not always left as it was found
                    function(self._batch, self._count)
                self._forget_gradients()
        finally:  # what is put back now must not be overtaken by what still runs
            torch.cuda.current_stream().wait_stream(side)

    def _forget_gradients(self) -> None:
        for parameter in self._trained:
            parameter.grad = None


class Kept:
    """The buffers of modules as they are now."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        each = [module for one in modules for module in one.modules()]
        found = [(module, name, buffer) for module in each for name, buffer in module._buffers.items()]
        self._kept = [(module, name, buffer, buffer.clone()) for module, name, buffer in found if buffer is not None]

    def replaced(self) -> str | None:
        """The name of one in whose place another tensor is now."""
        return next((name for module, name, buffer, _ in self._kept if module._buffers.get(name) is not buffer), None)

    @torch.no_grad()
    def put_back(self) -> None:
        """The same tensors with the same values."""
        for module, name, buffer, before in self._kept:
            buffer.copy_(before)
            module._buffers[name] = buffer


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Let torch raise a RuntimeError where the host would wait for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Answers:
    """A teacher's answers, from one CUDA graph for batches of one size; asked as usual for others.

    Args:
        ask: from a batch to logits, without gradient.
        batch_size: of the batches that are captured.
    """

    def __init__(self, ask: Callable[[Batch], Tensor], batch_size: int) -> None:
        self._ask, self._batch_size = ask, batch_size
        self._captured: Captured | None = None
        self._captures = True

    def __call__(self, batch: Batch) -> Tensor:
        """Logits, which the next call overwrites."""
        if self._captured is None and self._captures and len(batch["index"]) == self._batch_size:
            self._capture(batch)
        if self._captured is None or not self._captured.fits(batch):
            return self._ask(batch)
        return self._captured(batch, batch["index"])["logits"]

    def _capture(self, batch: Batch) -> None:
        try:
            self._captured = Captured(
                lambda batch, _: {"logits": self._ask(batch)}, batch, batch["index"], trained=(), modules=()
            )
        except CannotCapture as error:
            note(f"the teacher's answers are not captured as a CUDA graph: {error}")
            self._captures = False


class CannotCapture(RuntimeError):
    """A step that cannot be one graph, and why."""


def why_not_captured(task: Task, *, micro_batches: int, processes: int, scaled: bool) -> str | None:
    """What keeps the steps of a task from being one graph each; None if nothing that is known beforehand."""
    changing = [
        c.name for c in task.criteria if any(c.has(m) for m in ("penalty", "observe", "start_epoch", "end_step"))
    ]
    if changing:
        return f"'{changing[0]}' changes along the run"
    if (looking := _looking(task)) is not None:
        return looking
    if isinstance(task, TeachTask) and task.company is not None:
        return "the models teach each other"
    if micro_batches > 1:
        return "a step has several micro-batches"
    if processes > 1:
        return "there are several processes"
    return "fp16 scales its loss anew in every step" if scaled else None


def _first_line(error: Exception) -> str:
    """What an error says first; of the compiler's own "backend='inductor' raised:" also what it has raised."""
    first, _, rest = str(error).strip().partition("\n")
    return f"{first} {rest.strip().splitlines()[0]}" if first.endswith(":") and rest.strip() else first
