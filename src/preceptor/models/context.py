"""What a position of a language model looks at: nothing behind it, and no document beside its own."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from preceptor.errors import InputError

Ask = Callable[[Tensor, Tensor], Tensor]
"""Token numbers and positions (B, L) to logits (B, L, V)."""
_TOKENS = 4  # of a document
_EXACT, _ROUNDED = 1e-5, 1e-3  # of the largest logit: equal sums, and sums of other lengths


def keeps_apart(model: nn.Module, ask: Ask, num_classes: int, longest: int | None = None) -> bool:
    """Whether the second document of a packed row is read as it would be alone, its positions restarting at 0.

    The model is asked four times, with a short row each.

    Args:
        model: left as it was found.
        ask: calls it.
        num_classes: numbers of tokens are below it.
        longest: row that the model reads; None for any.

    Raises:
        InputError: its logits depend on later tokens, and tell nothing about the next.
    """
    length = min(_TOKENS, (longest or 2 * _TOKENS) // 2)
    first, other, second = _documents(model, num_classes, length)
    places = torch.arange(length, device=first.device)
    both = places.repeat(2)[None]

    def said(*documents: Tensor) -> Tensor:
        return ask(torch.cat(documents)[None], both[:, : length * len(documents)])[0].double()

    with _undisturbed(model, first.device):
        # One row a call: where only what is not looked at differs, the same sums are made in the same order.
        packed, behind_other, before_other = said(first, second), said(other, second), said(first, other)
        alone = said(second)
    scale = float(packed.abs().max())

    def alike(one: Tensor, two: Tensor, tolerance: float) -> bool:
        return float((one - two).abs().max()) <= tolerance * scale

    if not alike(packed[:length], before_other[:length], _EXACT):
        raise InputError(
            f"{type(model).__name__} looks at later tokens, so that its logits tell nothing about the next; give a "
            "causal language model"
        )
    behind = packed[length:]
    return alike(behind, behind_other[length:], _EXACT) and alike(behind, alone, _ROUNDED)


def refuse_mixed(model: nn.Module, position_ids: Tensor) -> None:
    """Refuse packed rows for a model that does not keep their documents apart.

    Args:
        model: that `keeps_apart` is not true of.
        position_ids: (B, L); where they go back within a row, another document begins.

    Raises:
        InputError: some do.
    """
    if restart(position_ids):
        raise InputError(
            f"{type(model).__name__} does not keep the documents of a packed row apart by their positions; give "
            "data.packed=false"
        )


def restart(position_ids: Tensor) -> bool:
    """Whether positions (B, L) go back somewhere within a row, as another document begins there."""
    return bool((position_ids.diff(dim=-1) <= 0).any())


def _documents(model: nn.Module, num_classes: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three short documents; the second has another token than the first in each place."""
    device = next(model.parameters()).device
    first = torch.arange(length, device=device) % num_classes
    return first, (first + 1) % num_classes, (3 * first + 2) % num_classes


@contextlib.contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """In eval mode, without gradient, and in the model's own precision whatever is round it."""
    with in_eval_mode(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards those of its modules that were in training mode back in that."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
