"""Which samples an epoch draws, and the held-out score that chooses the best epoch."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from preceptor.schema import NUMBER, Component, Strict, by_name


class Sampling(Strict):
    """Draws with replacement, as many an epoch as there are samples, by the stream ``order``."""

    name: Literal["balanced", "weighted"] = "balanced"
    """``balanced`` draws each class as often."""
    weights: tuple[Annotated[float, Field(ge=0), NUMBER], ...] | None = None
    """Of ``weighted``: what the draws are in proportion to, a number for each class or for each sample of the data."""

    @model_validator(mode="after")
    def _weights_of_weighted(self) -> "Sampling":
        if self.name == "weighted" and not self.weights:
            raise ValueError(
                "the sampler 'weighted' needs 'weights'; give sampler.weights=[...], a number for each class or for "
                "each sample of the data set"
            )
        if self.name == "balanced" and self.weights is not None:
            raise ValueError(
                "the sampler 'balanced' counts for itself; leave sampler.weights out, or name it 'weighted'"
            )
        return self


AnySampling = Annotated[Sampling | None, BeforeValidator(by_name)]


class Metric(Component):
    """A metric of somebody's own: its other keys are options of the function or class that it names, which is called
    with the held-out predictions (n, C) and labels (n,) as tensors and gives a number.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    name: Annotated[str, Field(pattern=":")]
    """``package.module:name``, such as ``torchmetrics.functional.classification:multiclass_f1_score``."""
    maximize: bool
    """Whether more is better."""
    of: Literal["probabilities", "logits"] = "probabilities"
    """What it is called with."""


def _named(value: object) -> object:
    """``package.module:name`` alone lacks its direction, which the error then asks for; one of ours has no options."""
    if isinstance(value, Mapping) and set(value) == {"name"} and ":" not in str(value["name"]):
        return value["name"]
    return {"name": value} if isinstance(value, str) and ":" in value else value


def _whose(value: object) -> str:
    return "way-own" if isinstance(value, Mapping | Metric) else "way-ours"


Score = Literal["brier", "nll", "accuracy", "macro_f1", "balanced_accuracy"]
AnyMetric = Annotated[
    Annotated[Score, Tag("way-ours")] | Annotated[Metric, Tag("way-own")],
    Discriminator(_whose),
    BeforeValidator(_named),
]
