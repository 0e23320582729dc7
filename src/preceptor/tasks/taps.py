"""What a model's inner modules give, or are given, caught by name: no model has to return a tuple."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean
from preceptor.tasks.layouts import channels_first

INPUT = ":input"
"""Behind the name of a module: what it is given, not what it gives."""


class Taps:
    """A context in which tensors of named modules are caught; hooks are on the model only while it is open.

    Args:
        model: the model to look into.
        names: of modules in it, as `torch.nn.Module.named_modules` lists them, for what they give; or ``NAME:input``
            for what they are given.
        whose: what an error calls the model.
        copied: those of which a copy is kept, as what follows works in place; by default all.
        turned: those at which maps are (B, H, W, C), to be caught as (B, C, H, W).

    Raises:
        InputError: the model has no module of such a name, or is compiled. While it is open: a module is called twice.
            When it is left: one was not called.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> with Taps(model, ["0", "1:input"], "student") as features:
    ...     _ = model(torch.zeros(5, 2))
    >>> features["0"].shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        whose: str,
        *,
        copied: Collection[str] | None = None,
        turned: Collection[str] = (),
    ) -> None:
        known = dict(model.named_modules())
        if names:
            refuse_compiled(model, whose)
        for name in map(module_of, names):
            if name not in known:
                raise InputError(f"the {whose} has no module '{name}' to tap; {did_you_mean(name, known)}")
        self._modules = {name: known[module_of(name)] for name in names}
        self._copied: Collection[str] = self._modules if copied is None else copied
        self.turned: Collection[str] = turned
        self._whose = whose
        self._handles: list[Any] = []
        self._caught: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._modules)

    def __enter__(self) -> dict[str, Tensor]:
        self._caught = {}
        for name, module in self._modules.items():
            self._handles.append(self._hooked(name, module))
        return self._caught

    def __exit__(self, kind: object, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        caught, self._caught = self._caught, {}
        missed = next((name for name in self._modules if name not in caught), None)
        if missed is not None and kind is None:
            raise InputError(
                f"the module '{module_of(missed)}' of the {self._whose} was not called in this forward pass, so that "
                "there is nothing to tap; name one that always is (preceptor taps lists them)"
            )

    def _hooked(self, name: str, module: nn.Module) -> Any:
        if name.endswith(INPUT):
            return module.register_forward_pre_hook(lambda _, given: self._catch(name, first_tensor(given)))
        return module.register_forward_hook(lambda _, _given, gave: self._catch(name, first_tensor(gave)))

    def _catch(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            raise InputError(f"the tap '{name}' of the {self._whose} is no tensor; name a module within it")
        if name in self._caught:
            raise InputError(
                f"the module '{module_of(name)}' of the {self._whose} is called several times in a forward pass, so "
                "that it is not clear which of them is meant; name one that is called once (preceptor taps lists them)"
            )
        kept = tensor.clone() if name in self._copied else tensor
        self._caught[name] = channels_first(kept) if name in self.turned and kept.ndim == 4 else kept


def module_of(tap: str) -> str:
    """The name of the module that a tap is at."""
    return tap.removesuffix(INPUT)


def first_tensor(value: Any) -> Tensor | None:
    """A tensor, or the first one in a tuple or mapping, such as a block's of transformers."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((each for each in value if isinstance(each, Tensor)), None)
    return None


def refuse_compiled(model: nn.Module, whose: str) -> None:
    """Refuse a model with parts that torch has compiled, which call no hooks that come later.

    Raises:
        InputError: there is such a part.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            part = f"its module '{name}'" if name else "it"
            raise InputError(
                f"the {whose} cannot be looked into, as {part} is compiled, and what is compiled may call no hook; "
                "hand over the model as it was before torch.compile"
            )


def check_features(features: Mapping[str, Tensor], rows: int, whose: str, *, gradient: bool = False) -> None:
    """Refuse features whose first axis is not the batch, or through which nothing can be learned.

    Args:
        rows: samples of the batch.
        gradient: they are a student's in training.

    Raises:
        InputError: naming the tap.
    """
    for name, feature in features.items():
        if feature.ndim < 2 or len(feature) != rows:
            raise InputError(
                f"the tap '{name}' of the {whose} has shape {tuple(feature.shape)} for {rows} samples; name a module "
                "whose first axis is the batch"
            )
        if feature.is_quantized:
            raise InputError(
                f"the tap '{name}' of the {whose} is quantized, which no loss can read; name a module behind its "
                "dequantization"
            )
        if gradient and not feature.requires_grad:
            raise InputError(
                f"the tap '{name}' of the {whose} carries no gradient, so that nothing could be learned there; name a "
                "module behind its frozen layers, and use checkpointing with use_reentrant=False"
            )
