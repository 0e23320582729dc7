"""Random mixtures of two training samples each: of their inputs and, in equal parts, of their labels' losses.

A mixing has two methods: `draw(num_samples, generator)` makes a row of parameters for every sample of the data set,
and `mix(inputs, partners, parameters)` gives mixed inputs and how much of each is its own. The partner of a sample is
drawn by the trainer for a whole epoch, so that what happens to a sample depends on seed, epoch and index alone.

A student's teacher is asked for the mixed input.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError

__all__ = ["cutmix", "mixup"]

# What a mixed batch brings beside the label of each sample; no data set has fields of such names.
PARTNER, PARTNER_LABEL, OWN_SHARE = "index of the partner", "label of the partner", "share of its own"


class Mixing(Protocol):
    """What every mixing can do."""

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """A row of parameters for each sample, float32 (N, K)."""
        ...

    def mix(self, inputs: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed inputs (B, ...) and the share of `inputs` in them, float32 (B,), for their rows of `draw`."""
        ...


@dataclass(frozen=True)
class Mixup:
    """A weighted mean of two inputs."""

    alpha: float

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """The share of each sample's own input, Beta(alpha, alpha); (N, 1)."""
        return _beta(self.alpha, num_samples, generator)[:, None]

    def mix(self, inputs: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The means (B, ...), and the shares (B,)."""
        share = parameters[:, 0]
        return torch.lerp(partners, inputs, share.to(inputs).view(-1, *[1] * (inputs.ndim - 1))), share


@dataclass(frozen=True)
class Cutmix:
    """A box of one image in the place of the same box of another."""

    alpha: float

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """The share of a sample's own image to aim at, and the box's middle, from 0 to 1 down and across; (N, 3)."""
        middle = torch.rand(num_samples, 2, generator=generator)
        return torch.cat([_beta(self.alpha, num_samples, generator)[:, None], middle], dim=1)

    def mix(self, inputs: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), and the shares (B,) that their own pixels have in them."""
        if inputs.ndim != 4:
            raise InputError(
                "cutmix mixes images (samples, channels, height, width), but the inputs have shape "
                f"{tuple(inputs.shape)}; take mixup, or leave the mixing out"
            )
        aimed, *middle = parameters.unbind(1)
        side = (1 - aimed).sqrt()  # of the box, which is cut off at the image's edges
        down, across = (_inside(length, centre, side) for length, centre in zip(inputs.shape[-2:], middle, strict=True))
        box = down[:, :, None] & across[:, None, :]
        share = 1 - box.float().mean((1, 2))
        return torch.where(box[:, None], partners, inputs), share


def mixup(*, alpha: float = 0.2) -> Mixup:
    """Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018).

    Args:
        alpha: of the Beta distribution of the shares; 1 makes all equally likely, smaller ones mix less.

    >>> mixed, share = mixup().mix(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[0.75]]))
    >>> mixed, share
    (tensor([[0.2500, 0.2500]]), tensor([0.7500]))
    """
    return Mixup(_checked("mixup", alpha))


def cutmix(*, alpha: float = 1.0) -> Cutmix:
    """CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019).

    Args:
        alpha: of the Beta distribution of the shares; 1 makes all equally likely.

    >>> image = torch.zeros(1, 1, 2, 2)
    >>> mixed, share = cutmix().mix(image, image + 1, torch.tensor([[0.75, 0.25, 0.25]]))  # a quarter, at the top left
    >>> mixed, share
    (tensor([[[[1., 0.],
              [0., 0.]]]]), tensor([0.7500]))
    """
    return Cutmix(_checked("cutmix", alpha))


def partners(indices: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """The partner of each sample that is trained on, int64 (N,): one of them, each once; others are their own.

    Args:
        indices: int64 (n,), of the samples that are trained on.
        num_samples: N, of the data set.
    """
    found = torch.arange(num_samples)
    found[indices] = indices[torch.randperm(len(indices), generator=generator)]
    return found


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()


def _inside(length: int, centre: Tensor, side: Tensor) -> Tensor:
    """Which of `length` pixels are within a box, bool (B, length)."""
    pixel = torch.arange(length, device=centre.device) + 0.5
    return ((pixel / length)[None] - centre[:, None]).abs() < side[:, None] / 2


def _checked(name: str, alpha: float) -> float:
    if not 0 < alpha < float("inf"):
        raise InputError(f"{name} has alpha {alpha}; give a positive number")
    return alpha
