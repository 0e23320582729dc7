"""Which training samples an epoch draws where it does not see each once."""

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.recipe import Recipe, Sampling
from preceptor.training.data.samples import Samples


class Sampler:
    """Draws of samples with replacement, in proportion to weights, from a generator.

    Args:
        weights: float64 (n,), at least 0, one for each training sample.
    """

    def __init__(self, weights: Tensor) -> None:
        self._upto = weights.cumsum(0)

    def draw(self, generator: torch.Generator) -> Tensor:
        """As many positions, int64 (n,), as there are weights."""
        size = len(self._upto)
        places = torch.rand(size, generator=generator, dtype=torch.float64) * self._upto[-1]
        return torch.searchsorted(self._upto, places, right=True).clamp(max=size - 1)


def sampler_of(recipe: Recipe, samples: Samples, indices: Tensor) -> Sampler | None:
    """The recipe's sampler of the samples at `indices`, int64 (n,); None without one.

    Raises:
        InputError: weights of another number, or 0 for all; classes of samples whose labels a student may not look at.
    """
    if recipe.sampler is None:
        return None
    values = _values(recipe.sampler, samples)
    if len(values) == samples.data.num_classes:  # one for each class, and no data set has so few samples
        if samples.labelled is not None and not samples.labelled[indices].all():
            raise InputError(
                f"the sampler '{recipe.sampler.name}' draws by class, and split.transfer holds samples without labels; "
                "leave one out, or give sampler.weights a number for each sample"
            )
        counted = values[samples.labels[indices]]
    else:
        counted = values[indices]
    if not counted.sum() > 0:
        raise InputError("sampler.weights is 0 for every training sample; give some of them a larger one")
    return Sampler(counted)


def _values(said: Sampling, samples: Samples) -> Tensor:
    """A weight for each class or for each sample of the data set, float64."""
    classes, size = samples.data.num_classes, len(samples.train)
    if said.name == "balanced":
        counts = samples.labels[samples.parts["train"]].bincount(minlength=classes)
        return 1 / counts.clamp(min=1).double()
    values = torch.tensor(said.weights, dtype=torch.float64)
    own = torch.ones(size, dtype=torch.bool)  # the training set, where a held-out set was handed over beside it
    own[(samples.data.pools or {}).get("heldout", [])] = False
    if values.shape not in ((classes,), (size,), (int(own.sum()),)):
        raise InputError(
            f"sampler.weights has shape {tuple(values.shape)}; give {classes} numbers, one for each class, or "
            f"{int(own.sum())}, one for each sample of the data set"
        )
    return values if len(values) in (classes, size) else torch.zeros(size).double().masked_scatter(own, values)
