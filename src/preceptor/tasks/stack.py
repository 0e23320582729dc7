"""Models that differ by seed or hyper-parameter, trained as one: every parameter gets a leading model
axis.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from preceptor.outputs import logits_of


class Stack(nn.Module):
    """Several models of one architecture as one module.

    Parameters and buffers are those of the models with a leading model axis, under the models' own names. A
    loss summed over models gives each the gradient that it would have alone, and an optimizer that works
    elementwise (SGD, AdamW) keeps the models apart.

    Args:
        models: modules of one architecture, without dropout.
        source_of: for each model, the row of the input that it reads; default: its own.

    Raises:
        ValueError: the models differ in architecture, or draw random numbers in their forward pass.
    """

    template: nn.Module

    def __init__(self, models: Sequence[nn.Module], source_of: Sequence[int] | None = None) -> None:
        super().__init__()
        shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in models]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError("the models of a stack must have one architecture")
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in models[0].modules()):
            raise ValueError("models with dropout cannot be stacked: their draws would not be those of one alone")
        parameters, buffers = stack_module_state(list(models))  # type: ignore[arg-type]
        # Kept out of the module tree: it lends its structure, never its tensors.
        object.__setattr__(self, "template", models[0])
        self._names = {name: name.replace(".", "/") for name in [*parameters, *buffers]}
        for name, tensor in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(tensor.detach()))
        for name, tensor in buffers.items():
            self.register_buffer(self._names[name], tensor, persistent=name in shapes[0])
        self.size: int = len(models)
        rows = list(source_of) if source_of is not None else list(range(len(models)))
        self._shared = len(set(rows)) == 1
        self._rows = None if rows == list(range(len(models))) else torch.tensor(rows)

    def tensors(self) -> dict[str, Tensor]:
        """All stacked parameters and buffers under the models' own names."""
        own = dict(self.named_parameters(recurse=False)) | dict(self.named_buffers(recurse=False))
        return {name: own[key] for name, key in self._names.items()}

    def forward(self, input: Tensor) -> Tensor:
        """Logits (M, B, C) of inputs (S, B, ...), S the number of distinct sources."""
        template: nn.Module = self.template  # type: ignore[assignment]
        template.train(self.training)
        prepare = getattr(template, "prepare", None)
        options = {} if prepare is None else {"prepared": True}
        if prepare is not None:  # once for each source, not for each model that reads it
            input = prepare(input)

        def one(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return logits_of(functional_call(template, dict(tensors), (x,), options))

        if self._shared:
            return torch.vmap(one, in_dims=(0, None))(self.tensors(), input[0])
        rows = input if self._rows is None else input[self._rows]
        return torch.vmap(one)(self.tensors(), rows)


def member_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the state dict of one model, from those of a single model or of a stack."""
    return [name.replace("/", ".") for name in tensors]


def member_state(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The state dict of one model, from a stack's state dict."""
    return {name.replace("/", "."): tensor[index].clone() for name, tensor in tensors.items()}


def clip_each(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Clip the gradient norm of each model of a stack on its own, as `torch.nn.utils.clip_grad_norm_`
    would.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients])
    scale = (max_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
