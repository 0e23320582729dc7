"""Which training samples an epoch draws where it does not see each once."""

from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import Recipe
from preceptor.schema import Component
from preceptor.training.samples import Samples


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


def check_sampler(recipe: Recipe) -> None:
    """Refuse, before data are read, a sampler that is none.

    Raises:
        InputError: another name or option, or weights that are no list.
    """
    said = recipe.sampler
    if said is None:
        return
    if said.name not in ("balanced", "weighted"):
        raise InputError(
            f"there is no sampler called '{said.name}'; {did_you_mean(said.name, ['balanced', 'weighted'])}"
        )
    known = {"weights"} if said.name == "weighted" else set[str]()
    unknown = next((key for key in said.options if key not in known), None)
    if unknown is not None:
        hint = did_you_mean(unknown, known) if known else "it has no options"
        raise InputError(f"unknown key 'sampler.{unknown}' for the sampler '{said.name}'; {hint}")
    if said.name == "weighted" and not isinstance(said.options.get("weights"), list | tuple):
        raise InputError(
            "the sampler 'weighted' needs 'weights'; give sampler.weights=[...], a number for each class or for each "
            "sample of the data set"
        )


def sampler_of(recipe: Recipe, samples: Samples, indices: Tensor) -> Sampler | None:
    """The recipe's sampler of the samples at `indices`, int64 (n,); None without one.

    Raises:
        InputError: weights that are no numbers of at least 0, of another number, or 0 for all; classes of samples
            whose labels a student may not look at.
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


def _values(said: Component, samples: Samples) -> Tensor:
    """A weight for each class or for each sample of the data set, float64."""
    classes, size = samples.data.num_classes, len(samples.train)
    if said.name == "balanced":
        counts = samples.labels[samples.parts["train"]].bincount(minlength=classes)
        return 1 / counts.clamp(min=1).double()
    given: Any = said.options["weights"]
    try:
        values = torch.tensor(given, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sampler.weights cannot be read as numbers: {error}; give a list of numbers") from None
    own = torch.ones(size, dtype=torch.bool)  # the training set, where a held-out set was handed over beside it
    own[(samples.data.pools or {}).get("heldout", [])] = False
    if values.shape not in ((classes,), (size,), (int(own.sum()),)):
        raise InputError(
            f"sampler.weights has shape {tuple(values.shape)}; give {classes} numbers, one for each class, or "
            f"{int(own.sum())}, one for each sample of the data set"
        )
    bad = (~values.isfinite() | (values < 0)).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"sampler.weights holds {given[bad[0]]} at {bad[0]}; give numbers of at least 0")
    return values if len(values) in (classes, size) else torch.zeros(size).double().masked_scatter(own, values)
