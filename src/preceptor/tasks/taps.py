"""Outputs of a model's inner modules, caught by name: no model has to return a tuple."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean


class Taps:
    """A context in which the outputs of named modules are caught; hooks are on the model only while it is open.

    Args:
        model: the model to look into.
        names: of modules in it, as `torch.nn.Module.named_modules` lists them.
        whose: what an error calls the model.

    Raises:
        InputError: the model has no module of such a name.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> with Taps(model, ["0"], "student") as features:
    ...     _ = model(torch.zeros(5, 2))
    >>> features["0"].shape
    torch.Size([5, 3])
    """

    def __init__(self, model: nn.Module, names: Sequence[str], whose: str) -> None:
        known = dict(model.named_modules())
        for name in names:
            if name not in known:
                raise InputError(f"the {whose} has no module '{name}' to tap; {did_you_mean(name, known)}")
        self._modules = {name: known[name] for name in names}
        self._handles: list[Any] = []

    def __enter__(self) -> dict[str, Tensor]:
        caught: dict[str, Tensor] = {}
        for name, module in self._modules.items():
            hook = lambda _module, _inputs, output, name=name: caught.__setitem__(name, output)  # noqa: E731
            self._handles.append(module.register_forward_hook(hook))
        return caught

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
