"""Optimizer and schedule: ours by their keys, or somebody's own by name."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from preceptor.schema import NUMBER, Component, Count, Strict

_Rate = Annotated[float, Field(gt=0, le=1e30), NUMBER]
_Decay = Annotated[float, Field(ge=0, lt=1), NUMBER]
_Left = tuple[Literal["norms", "biases"], ...]
_LayerDecay = Annotated[float, Field(gt=0, le=1), NUMBER]
_OWN: ConfigDict = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Optimizer(Strict):
    """SGD, AdamW or Langevin dynamics; weight decay applies to every parameter that ``no_decay`` does not name."""

    name: Literal["sgd", "adamw", "sgld"] = "sgd"
    """Which optimizer; another is ``package.module:name``."""
    lr: _Rate = 0.05
    """The learning rate that the schedule multiplies."""
    momentum: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.9
    """Of sgd."""
    nesterov: bool = False
    """Nesterov's momentum, of sgd."""
    weight_decay: Annotated[float, Field(ge=0, le=1e30), NUMBER] = 5e-4
    """Of all parameters: added to the gradient by sgd and sgld, decoupled by adamw."""
    betas: tuple[_Decay, _Decay] = (
        0.9,
        0.999,
    )
    """Of adamw."""
    noise_temperature: Annotated[float, Field(ge=0, le=1e30), NUMBER] = 1.0
    """Of sgld, whose weights are samples of the posterior at it: below 1 of a colder one, at 0 there is no noise."""
    no_decay: _Left = ()
    """Parameters without weight decay: ``norms``, those of normalisation layers, and ``biases``."""
    layer_decay: _LayerDecay | None = None
    """Layer-wise rates: the last layer's is ``lr``, that of each layer before it so many times smaller."""
    rates: dict[str, _Rate] = Field(default_factory=dict)
    """Multiples of ``lr`` by patterns of parameters' names, such as ``head.*``; the first pattern that fits counts.
    A loss's own parameters are called ``loss.NAME``, an objective's ``objective.NAME``.
    """


class OwnOptimizer(Component):
    """An optimizer of somebody's own: its other keys are options of the function or class that it names, which is
    called with the parameters and ``lr``.
    """

    model_config: ClassVar[ConfigDict] = _OWN

    name: Annotated[str, Field(pattern=":")]
    """``package.module:name``, such as ``torch.optim:Adam``."""
    lr: _Rate = 0.05
    """The learning rate that the schedule multiplies."""
    no_decay: _Left = ()
    """As of ours, of an optimizer that has a weight decay."""
    layer_decay: _LayerDecay | None = None
    """As of ours."""
    rates: dict[str, _Rate] = Field(default_factory=dict)
    """As of ours."""


class Schedule(Strict):
    """The learning rate as a multiple of ``optimizer.lr``, by optimizer step; milestones are in epochs."""

    name: Literal["cosine", "step", "one_cycle", "cyclic", "constant"] = "cosine"
    """``cosine`` falls to ``final`` along half a cosine, ``step`` multiplies by ``factor`` at each milestone,
    ``one_cycle`` rises and falls in straight lines, ``cyclic`` is one cosine after the other.
    """
    warmup_epochs: Annotated[float, Field(ge=0), NUMBER] = 0.0
    """Epochs over which the rate rises linearly."""
    initial: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.04
    """Of ``one_cycle``: the multiple that it begins with."""
    milestones: tuple[Annotated[float, Field(ge=0), NUMBER], ...] = ()
    """Of ``step``: the epochs after which the rate falls."""
    factor: Annotated[float, Field(gt=0), NUMBER] = 0.1
    """Of ``step``."""
    cycles: Count = 5
    """Of ``cyclic``: into how many equal cycles of whole epochs the epochs after the warm-up are cut."""
    final: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.0
    """Of ``cosine``, ``one_cycle`` and ``cyclic``: the multiple that it, or each cycle, ends with."""

    def cycle_ends(self, epochs: int) -> tuple[int, ...]:
        """The numbers of epochs after which a cycle of a ``cyclic`` schedule ends; none of any other.

        >>> Schedule(name="cyclic", cycles=3).cycle_ends(12)
        (4, 8, 12)
        """
        if self.name != "cyclic":
            return ()
        length = int(epochs - self.warmup_epochs) // self.cycles
        return tuple(epochs - length * back for back in reversed(range(self.cycles)))


class OwnSchedule(Component):
    """A scheduler of somebody's own, stepped after each optimizer step: its other keys are options of the function or
    class that it names, which is called with the optimizer and, if it asks for it, ``total_steps`` (or
    ``num_training_steps``, as those of transformers).
    """

    model_config: ClassVar[ConfigDict] = _OWN

    name: Annotated[str, Field(pattern=":")]
    """``package.module:name``, such as ``torch.optim.lr_scheduler:ExponentialLR``."""


def _whose(value: Any) -> str:
    """Ours or somebody's own, by the name."""
    name = value.get("name", "") if isinstance(value, Mapping) else getattr(value, "name", "")
    return "way-own" if ":" in str(name) else "way-ours"


AnyOptimizer = Annotated[
    Annotated[Optimizer, Tag("way-ours")] | Annotated[OwnOptimizer, Tag("way-own")], Discriminator(_whose)
]
AnySchedule = Annotated[
    Annotated[Schedule, Tag("way-ours")] | Annotated[OwnSchedule, Tag("way-own")], Discriminator(_whose)
]
