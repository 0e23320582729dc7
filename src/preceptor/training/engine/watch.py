"""Losses that are not finite, found without waiting for the device in every step."""

import torch
from torch import Tensor

LOOK_EVERY = 50  # optimizer steps


class Watch:
    """Remembers the first step whose loss is not finite, on the device, and keeps the weights as they were before it.

    Nothing here waits for the device but `first`. From the step that is remembered on, the optimizer changes nothing,
    so that this step can be made once more to see who is to blame.

    Args:
        optimizer: a fused one, which reads the flag ``found_inf`` as it does for `torch.amp.GradScaler`.
        device: where the losses are.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self._bad: Tensor = torch.zeros((), device=device)  # 1.0 once a loss was not finite
        self._first: Tensor = torch.full((), -1, dtype=torch.int64, device=device)
        optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def see(self, loss: Tensor) -> None:
        """Look at the loss of a micro-batch."""
        torch.maximum(self._bad, (~loss.detach().isfinite()).to(self._bad), out=self._bad)

    def end_step(self, step: int) -> None:
        """All of an optimizer step was seen, but for its update."""
        self._first = torch.where((self._first < 0) & (self._bad > 0), step, self._first)

    def first(self) -> int | None:
        """The number of the first step whose loss was not finite; waits for the device."""
        step = int(self._first)
        return None if step < 0 else step
