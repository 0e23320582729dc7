"""What somebody's model needs before it is trained or loaded: layers that exist, memory of its own, the fast layout."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from preceptor.inputs import Inputs, call, each


def own_memory_(model: nn.Module) -> None:
    """Give each parameter and buffer whose entries share memory (made by `expand`) a copy that can be written to.

    >>> model = nn.Module()
    >>> model.register_buffer("ones", torch.ones(1).expand(3))
    >>> own_memory_(model)
    >>> model.ones.add_(1).tolist()
    [2.0, 2.0, 2.0]
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        if not is_lazy(tensor) and tensor.layout is torch.strided and _overlaps(tensor):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _overlaps(tensor: Tensor) -> bool:
    """Whether it has more entries than places in memory."""
    reach = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > reach + 1


def to_channels_last_(model: nn.Module, inputs: Inputs) -> None:
    """Put the weights of convolutions into the layout in which they run about twice as fast on a CPU.

    A model that can be trained on `inputs` (B, ...) only as it was, because it takes its activations apart by `view`,
    stays so. Its mode, buffers and gradients are left as they were found, and so is the global generator.
    """
    weights = [parameter for parameter in model.parameters() if not is_lazy(parameter) and parameter.ndim == 4]
    if not weights:
        return
    trained_before = _trains(model, inputs)
    _lay_out(weights, torch.channels_last)
    if trained_before and not _trains(model, inputs):
        _lay_out(weights, torch.contiguous_format)


def _lay_out(weights: Sequence[nn.Parameter], layout: torch.memory_format) -> None:
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=layout)


def trains_on_one(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a batch of one sample can be trained on: batch normalisation may need two.

    Args:
        model: left as it was found.
        inputs: (B, ...) with B at least 2.

    >>> trains_on_one(nn.BatchNorm1d(3), torch.zeros(2, 3)), trains_on_one(nn.LayerNorm(3), torch.zeros(2, 3))
    (False, True)
    """
    return _trains(model, each(inputs, lambda rows: rows[:1])) or not _trains(
        model, each(inputs, lambda rows: rows[:2])
    )


def _trains(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a forward pass in eval mode, and one in training mode with the backward pass, go through."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with _left_as_it_was(model), torch.random.fork_rng(devices=[]):
            with torch.no_grad():
                call(model.eval(), inputs)
            with torch.enable_grad():
                output = call(model.train(), inputs)
                output = output if isinstance(output, Tensor) else getattr(output, "logits", None)
                if isinstance(output, Tensor) and output.requires_grad:
                    torch.autograd.grad(output.sum().abs(), trained, allow_unused=True)
    except Exception:  # whatever a model of somebody's raises
        return False
    return True


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back mode and buffers, which a forward pass may write to or replace."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, buffer) for module, _ in modes for name, buffer in module._buffers.items()]
    copies = [None if buffer is None else buffer.detach().clone() for _, _, buffer in buffers]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for (module, name, buffer), copy in zip(buffers, copies, strict=True):
            module._buffers[name] = buffer
            if buffer is not None and copy is not None:
                buffer.detach().copy_(copy)


def finish_(model: nn.Module, wanted: Sequence[str], input_shape: Sequence[int]) -> None:
    """Let a model that makes layers in its first forward pass make them, so that weights can be loaded into it.

    Args:
        model: a new one.
        wanted: names of the tensors that will be loaded.
        input_shape: of one input.
    """
    own = model.state_dict()
    if set(wanted) <= own.keys() and not any(map(is_lazy, own.values())):
        return
    # A run does not say of which dtype its inputs were.
    for dtype in (torch.float32, torch.uint8, torch.int64):
        with torch.no_grad(), contextlib.suppress(RuntimeError, TypeError, ValueError):
            model.eval()(torch.zeros(2, *input_shape, dtype=dtype))
            return
