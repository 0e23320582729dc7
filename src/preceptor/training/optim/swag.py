"""SWAG: a normal posterior over weights, from the weights that SGD has passed (arXiv 1902.02476)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.errors import InputError


@dataclass(frozen=True, eq=False)
class Swag:
    """A normal distribution of parameters by name: with a diagonal, and a low-rank covariance over all of them.

    Args:
        mean: of the snapshots.
        variance: of each weight over them, at least 0.
        deviations: (K, *shape), of the last K of them.
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]
    deviations: Mapping[str, Tensor]

    def sample(self, generator: torch.Generator, *, scale: float = 0.5) -> dict[str, Tensor]:
        """mean + sqrt(scale) (sqrt(variance) z1 + deviations' z2 / sqrt(K - 1)), with normal z1 and, of length K, z2.

        The paper's equation 1 at scale 1/2, at which its code is evaluated.

        Args:
            generator: of the CPU.
            scale: of the covariance; at 0 the sample is the mean.

        Returns:
            Parameters as they were given, in float32.
        """
        rank = len(next(iter(self.deviations.values())))
        common = torch.randn(rank, generator=generator, dtype=torch.float64) / max(1, rank - 1) ** 0.5
        found = {}
        for name, mean in self.mean.items():
            noise = self.variance[name].sqrt() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
            noise += torch.tensordot(common, self.deviations[name], 1)
            found[name] = (mean + scale**0.5 * noise).float()
        return found


def swag(snapshots: Sequence[Mapping[str, Tensor]], *, rank: int = 20) -> Swag:
    """The normal distribution that snapshots of weights along training, in their order, come from.

    As in the paper's code a deviation is that of a snapshot from the mean of all up to it, so that the first one is 0.

    Args:
        snapshots: at least two, each with the same parameters by name.
        rank: K at most.

    Returns:
        In float64.

    Raises:
        InputError: fewer than two snapshots, or a rank below 2.

    >>> found = swag([{"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}])
    >>> found.mean["w"].item(), found.variance["w"].item(), found.deviations["w"].flatten().tolist()
    (1.0, 1.0, [0.0, 1.0])
    """
    if len(snapshots) < 2:
        raise InputError(f"there are {len(snapshots)} snapshots of the weights; give at least two")
    if rank < 2:
        raise InputError(f"rank is {rank}; give 2 or more", argument="rank")
    mean, variance, deviations = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for name in snapshots[0]:
        values = torch.stack([each[name].double() for each in snapshots])
        counts = torch.arange(1, len(values) + 1, dtype=values.dtype).view(-1, *[1] * (values.ndim - 1))
        deviations[name] = (values - values.cumsum(0) / counts)[-rank:]
        mean[name], variance[name] = values.mean(0), values.var(0, correction=0)
    return Swag(mean, variance, deviations)
