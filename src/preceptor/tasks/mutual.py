"""Deep mutual learning: what a model is told by others that are trained beside it (arXiv 1706.00384)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from preceptor.inputs import Inputs
from preceptor.outputs import logits_of
from preceptor.tasks.reduction import reduce
from preceptor.tasks.tokens import COUNTED, of_tokens


@dataclass(frozen=True, eq=False)
class Company:
    """The models that are trained beside one, as they are at this moment.

    Args:
        models: the others.
        weight: of the divergence from them.
        temperature: T, by which all logits are divided.
    """

    models: Sequence[nn.Module]
    weight: float = 1.0
    temperature: float = 1.0

    def __call__(self, batch: Mapping[str, Any], logits: Tensor) -> Tensor:
        """weight T^2 times the mean over the others of KL(other || model), one value per example, (B,).

        The others are in training mode, as in the paper's algorithm, and do not learn here: neither their weights nor
        their batch-norm statistics change.

        Args:
            batch: ``input`` and ``mask``.
            logits: of the model itself, (B, C).
        """
        mask: Tensor = batch["mask"].unsqueeze(-1)
        own = (logits.float().masked_fill(~mask, 0) / self.temperature).log_softmax(-1)
        values = torch.zeros_like(own[..., 0])
        for model in self.models:
            said = self.say(model, batch["input"])
            said = of_tokens(said, batch[COUNTED]) if COUNTED in batch else said
            other = (said.float().masked_fill(~mask, 0) / self.temperature).log_softmax(-1)
            values = values + F.kl_div(own, other, reduction="none", log_target=True).sum(-1)
        return self.weight * self.temperature**2 * values / len(self.models)

    def joined(
        self, output: dict[str, Tensor], batch: Mapping[str, Any], logits: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        """What a task gives, with the share of this in the step's loss."""
        told = reduce(self(batch, logits), batch["mask"], count, 0)
        return {**output, "loss": output["loss"] + told, "mutual": told.detach()}

    @staticmethod
    @torch.no_grad()
    def say(model: nn.Module, inputs: Inputs) -> Tensor:
        """A model's logits in training mode, by copies of its buffers."""
        was = model.training
        model.train()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        if isinstance(inputs, Mapping):
            said = functional_call(model, buffers, (), dict(inputs))
        else:
            said = functional_call(model, buffers, (inputs,))
        model.train(was)
        return logits_of(said)
