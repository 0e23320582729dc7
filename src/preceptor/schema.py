"""Types that several floors share: a strict base, things found by name, transforms. Does not import torch."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from preceptor.errors import InputError


def _no_truth(value: object) -> object:
    """YAML's `true` and `yes` are 1 to Python."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    return value


NUMBER = BeforeValidator(_no_truth)
"""Behind the bounds of a number: before them, pydantic would leave these out of its JSON schema."""
Number = Annotated[float, NUMBER]
Whole = Annotated[int, NUMBER]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), NUMBER]
"""How many of something that is counted one by one."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and NaN."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Component(BaseModel):
    """Something found by name (``kd``, ``package.module:name``); every further key is an option of it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that the recipe hands to the named function."""
        return dict(self.model_extra or {})


def by_name(value: object) -> object:
    """``loss: kd`` is short for ``loss: {name: kd}``."""
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[Component, BeforeValidator(by_name)]

SUM = "sum"
"""The name of a component that is made of others, each with a weight."""


def several_by_name(value: object) -> object:
    """``loss: [kd, {name: FitNet, weight: 100}]`` is short for ``loss: {name: sum, parts: [...]}``."""
    if isinstance(value, list | tuple):
        return {"name": SUM, "parts": [by_name(each) for each in value]}
    return by_name(value)


def parts_of(component: Component) -> list[tuple[Component, float | None]]:
    """What a sum is made of, with the weights where they are given; of any other component itself.

    Raises:
        InputError: parts that are none.

    >>> kd, fitnet = parts_of(Component(**several_by_name(["kd", {"name": "FitNet", "weight": 50}])))
    >>> kd[0].name, fitnet[0].name, fitnet[1]
    ('kd', 'FitNet', 50)
    """
    if component.name != SUM:
        return [(component, None)]
    said = component.options.get("parts")
    if component.options.keys() != {"parts"} or not isinstance(said, list | tuple) or not said:
        raise InputError("a sum is a list of losses, each a name or a mapping; give loss=[kd, wttm], say")
    return [_part(each) for each in said]


def _part(said: Any) -> tuple[Component, float | None]:
    said = by_name(said)
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or said["name"] == SUM:
        raise InputError(f"{said!r} is no part of a sum; give a name, or a mapping of name, weight and options")
    weight = said.get("weight")
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if weight is not None and not (number and 0 <= weight < math.inf):
        raise InputError(f"the weight of '{said['name']}' in a sum is {weight!r}; give a number of at least 0")
    return Component(**{key: value for key, value in said.items() if key != "weight"}), weight


class Temperature(Strict):
    """Temperature scaling: the logits divided by one number."""

    kind: Literal["temperature"] = "temperature"
    """Which transform."""
    temperature: Annotated[float, Field(gt=0), NUMBER]
    """What the logits are divided by."""


class VectorScaling(Strict):
    """Vector scaling: each class's log-probability times a scale, plus a bias."""

    kind: Literal["vector"] = "vector"
    """Which transform."""
    scale: tuple[Number, ...]
    """One number a class."""
    bias: tuple[Number, ...]
    """One number a class."""


class Proxy(Strict):
    """The proxy teacher of PTLoss: coefficients shared by the classes, (M,), or one row a class, (C, M)."""

    kind: Literal["proxy"] = "proxy"
    """Which transform."""
    coefficients: tuple[Number, ...] | tuple[tuple[Number, ...], ...]
    """Of the perturbation, as PTLoss takes them."""


Transform = Annotated[Temperature | VectorScaling | Proxy, Field(discriminator="kind")]
"""What is done to a teacher's output after training, before a student sees it."""


def parse_transform(raw: object, source: str) -> Transform:
    """A transform that was stored as plain data; `source` is what an error calls the file."""
    try:
        return TypeAdapter(Transform).validate_python(raw)
    except ValidationError as error:
        raise InputError(f"{source} holds a transform that cannot be read: {error.errors()[0]['msg']}") from None
