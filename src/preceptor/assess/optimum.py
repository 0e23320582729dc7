"""What a loss makes of a teacher: the output a student would have at the loss's minimum.

That, and not the teacher's own output, is what reaches the student, so that is what is scored, searched for and chosen.
All that is known about it is one line of `OPTIMA`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import ValidationError
from torch import Tensor

from preceptor import names
from preceptor.assess.forecasts import Array, Forecast, forecast, to_numpy
from preceptor.errors import InputError, did_you_mean, is_number
from preceptor.losses import features
from preceptor.outputs.proxy import proxy_teacher
from preceptor.schema import SUM, Component, Proxy, Transform, parts_of

__all__ = ["OPTIMA", "LossLike", "Optimum", "assessed_as", "optimum"]

LossLike = str | Mapping[str, Any] | Component
"""A loss by name, or with its options as in a recipe: ``{"name": "ttm", "temperature": 4.0}``."""
Student = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Optimum:
    """What a loss makes of a teacher.

    Attributes:
        student: from the teacher's log-probabilities (..., N, C) to those of the student at the loss's minimum, given
            the options in `needs` by keyword; tensors only, and differentiable.
        words: what that is, for tables and pages; ``{loss}`` and ``{option}`` stand for the name and the options.
        needs: the loss's options that shape it, each with a value as an example.
        own: the transform of a teacher whose fields are these options, at the values that leave the teacher as it is,
            if there is one: where a transform is chosen, one of this kind becomes the loss's own options.
    """

    student: Callable[..., Tensor]
    words: str
    needs: Mapping[str, Any] = field(default_factory=dict)
    own: Transform | None = None


def as_it_is(log_probs: Tensor) -> Tensor:
    """The teacher itself."""
    return log_probs


def _softened(log_probs: Tensor, *, temperature: float) -> Tensor:
    return log_probs if temperature == 1 else (log_probs / float(temperature)).log_softmax(-1)


def _proxy(log_probs: Tensor, *, coefficients: Any) -> Tensor:
    return proxy_teacher(log_probs, torch.as_tensor(coefficients, dtype=torch.float64)).log_probs


_ITSELF = "the teacher's own output, which {loss} makes the student's optimum"
_AT_TEMPERATURE = "the teacher's output at temperature {temperature}, which {loss} makes the student's optimum"
_OF_PROXY = "the proxy teacher of {loss} with coefficients {coefficients}"

OPTIMA: dict[str, Optimum] = {
    "kd": Optimum(as_it_is, _ITSELF),  # at any temperature, as both sides are softened alike
    "dkd": Optimum(as_it_is, _ITSELF),  # both parts are 0 there and only there, if their weights are above 0
    "mlkd": Optimum(as_it_is, _ITSELF),  # 0 there, and KL alone is above 0 elsewhere
    "wsld": Optimum(as_it_is, _ITSELF),  # whose weight lets no gradient through
    "reverse_kl": Optimum(as_it_is, _ITSELF),  # a divergence of both sides softened alike, as are the next three
    "jsd": Optimum(as_it_is, _ITSELF),
    "skew_kl": Optimum(as_it_is, _ITSELF),
    "tvd": Optimum(as_it_is, _ITSELF),
    "ttm": Optimum(_softened, _AT_TEMPERATURE, {"temperature": 4.0}),
    "wttm": Optimum(_softened, _AT_TEMPERATURE, {"temperature": 4.0}),  # a weight moves no minimum
    "ptloss": Optimum(_proxy, _OF_PROXY, {"coefficients": [0.5, 0.1]}, Proxy(coefficients=(0.0,))),
}
"""What each loss makes of a teacher; one line adds a loss."""


def optimum(
    logits: Array | Forecast,
    loss: LossLike = "kd",
    *,
    temperature: float | None = None,
    coefficients: Array | None = None,
) -> Float64[np.ndarray, "*stack N C"]:
    """Log-probabilities of the student that minimises a loss, sample by sample.

    The teacher itself for `kd`, `dkd`, `mlkd`, `wsld` and the divergences `reverse_kl`, `jsd`, `skew_kl` and `tvd`, the
    teacher at the temperature for `ttm` and `wttm`, the proxy teacher for `ptloss`.

    Args:
        logits: the teacher's logits or log-probabilities, `(..., N, C)`.
        loss: one of these.
        temperature: of `ttm` and `wttm`, which need it; it changes nothing for the others that take one.
        coefficients: of `ptloss`, which needs them, `(M,)` or `(C, M)`.

    Returns:
        Log-probabilities `(..., N, C)` in float64.

    Raises:
        InputError: a loss of unknown optimum, an option that it needs or does not take, a temperature that is not above
            0, coefficients that allow no proxy, or anything `forecast` refuses.

    >>> np.exp(optimum([[2 * np.log(3.0), 0.0]], "ttm", temperature=2.0)).round(4).tolist()
    [[0.75, 0.25]]
    """
    bound = with_options(loss, temperature=temperature, coefficients=coefficients)
    return student_forecast(forecast(logits), bound).log_probs


def assessed_as(loss: Component) -> Component:
    """The loss of known optimum that a loss is assessed as, with those of its options that shape this optimum.

    A loss of unknown optimum, or of one's own, is assessed as `kd`: by the teacher itself. A sum is assessed as the
    first of its parts whose optimum is known, as losses that look into models ask for no output.

    >>> assessed_as(Component(name="ttm", temperature=3.0, weight=2.0)).model_dump()
    {'name': 'ttm', 'temperature': 3.0}
    >>> assessed_as(Component(name="dist")).model_dump()
    {'name': 'kd'}
    """
    if loss.name == SUM:
        loss = next((part for part, _ in parts_of(loss) if part.name in OPTIMA), loss)
    if loss.name not in OPTIMA:
        return Component(name="kd")
    return Component(
        name=loss.name, **{option: names.option("loss", loss, option, None) for option in OPTIMA[loss.name].needs}
    )


def with_options(loss: LossLike, *, searched: bool = False, **given: Any) -> Component:
    """A loss with those of its options that shape its optimum, and no others.

    Args:
        loss: by name, or with options as in a recipe.
        searched: a transform is searched for under this loss; where it may be the loss's own options, they may be
            missing here.
        given: further options; None is not given.

    Raises:
        InputError: a loss of unknown optimum, an option that it needs or does not take, a temperature that is not above
            0.
    """
    wanted = known(loss)
    options = wanted.options | {name: value for name, value in given.items() if value is not None}
    for name in options:
        if not takes(wanted.name, name):
            raise InputError(f"The loss {wanted.name!r} takes no {name}: leave {name} out.", argument=name)
    check_temperature(options.get("temperature"))
    shaped = OPTIMA[wanted.name]
    for name, example in shaped.needs.items():
        if options.get(name) is None and not (searched and shaped.own is not None):
            raise InputError(
                f"The loss {wanted.name!r} has no optimum without its {name}: pass {name}, such as {example}.",
                argument=name,
            )
    return Component(name=wanted.name, **{name: _plain(options[name]) for name in shaped.needs if name in options})


def known(loss: LossLike) -> Component:
    """A loss and its options, once it is sure that its optimum is known."""
    try:
        found = Component.model_validate({"name": loss} if isinstance(loss, str) else loss)
    except ValidationError:
        raise InputError(
            f"The loss is {loss!r}: give its name, or its name and options, such as "
            '{"name": "ttm", "temperature": 4.0}.',
            argument="loss",
        ) from None
    if isinstance(getattr(features, found.name, None), type):
        raise InputError(
            f"The loss {found.name!r} looks into the models and has no optimum among outputs: give kd, which judges "
            "the teacher itself.",
            argument="loss",
        )
    if found.name not in OPTIMA:
        meant = did_you_mean(found.name, OPTIMA)
        if meant.startswith("known"):
            meant = f"give kd, which judges the teacher itself, or one of {', '.join(sorted({*OPTIMA} - {'kd'}))}"
        raise InputError(f"The loss {found.name!r} has no known optimum: {meant}", argument="loss")
    return found


def check_temperature(temperature: float | None) -> None:
    """Refuse a temperature that divides nothing."""
    if temperature is not None and not (is_number(temperature) and 0 < temperature < math.inf):
        raise InputError(f"temperature is {temperature}: it must be above 0 and finite.", argument="temperature")


def takes(loss: str, option: str) -> bool:
    """Whether a loss has such an option, whether or not it shapes the optimum."""
    return option in names.options_of(names.find("loss", loss))[0]


def student_of(loss: Component) -> Student:
    """What a loss makes of a teacher's log-probabilities."""
    return partial(OPTIMA[loss.name].student, **loss.options)


def student_of_transformed(loss: Component) -> Student:
    """What a loss makes of a teacher under a transform that is searched for.

    Where a transform may be the loss's own options, that is all that they do: any other leaves them as good as none.
    """
    return as_it_is if OPTIMA[loss.name].own is not None else student_of(loss)


def student_forecast(teacher: Forecast, loss: Component) -> Forecast:
    """What a loss makes of a teacher's forecast."""
    with torch.no_grad():
        return forecast(student_of(loss)(torch.as_tensor(teacher.log_probs)))


def in_words(loss: Component) -> str:
    """What of a teacher is scored under a loss.

    >>> in_words(Component(name="wttm", temperature=4.0))
    "the teacher's output at temperature 4, which wttm makes the student's optimum"
    """
    shown = {name: _shown(value) for name, value in loss.options.items()}
    return OPTIMA[loss.name].words.format(loss=loss.name, **shown)


def _shown(value: Any) -> str:
    if isinstance(value, float | int):
        return f"{value:g}"
    return "per class" if np.ndim(value) > 1 else str(list(value)) if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    """Nested tuples of numbers in place of an array, so that what holds them can be compared."""
    array = to_numpy(value)

    def nested(values: list[Any]) -> tuple[Any, ...]:
        return tuple(nested(each) if isinstance(each, list) else each for each in values)

    return nested(array.tolist()) if array.ndim else value
