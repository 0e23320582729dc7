"""What can be tapped in a model: its modules as one forward pass calls them, and what the words for taps stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import names
from preceptor.errors import InputError
from preceptor.inputs import call
from preceptor.losses.features.base import LAST, PENULTIMATE, PREACTIVATIONS, STAGES
from preceptor.models.causal_lm import CausalLM
from preceptor.models.classifiers import TextClassifier
from preceptor.models.folders import pretrained_of
from preceptor.names import Trust
from preceptor.runs import Factory
from preceptor.runs.references import kind_of
from preceptor.schema import Component
from preceptor.serving.served import served
from preceptor.tasks.looking import Look, Seen

WORDS: tuple[str, ...] = (PENULTIMATE, LAST, STAGES, PREACTIVATIONS)
_BATCH = 3  # inputs that are shown to a model
_TEXT = b"A text to look at."


@dataclass(frozen=True)
class Tappable:
    """A module that a forward pass calls.

    Attributes:
        name, kind: as `torch.nn.Module.named_modules` has it, and its class.
        calls: how often it is called: a tap is at a module that is called once.
        given, gave: the shape of the first tensor that it is given and that it gives, the batch axis as "B"; None where
            there is none. Where the first axis is another, there is nothing to tap.
        given_channels, gave_channels: which axis of maps (four axes) the channels are, ``first`` or ``last``: a loss is
            given all with their channels first. ``unknown`` where that cannot be told; None of what is no map.
    """

    name: str
    kind: str
    calls: int
    given: tuple[int | str, ...] | None
    gave: tuple[int | str, ...] | None
    given_channels: str | None
    gave_channels: str | None


@dataclass(frozen=True)
class Tapped:
    """What can be tapped in a model.

    Attributes:
        modules: in the order in which they end.
        words: what ``penultimate``, ``last``, ``stages`` and ``preactivations`` stand for; nothing where a word stands
            for none.
    """

    modules: tuple[Tappable, ...]
    words: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "modules": [asdict(each) for each in self.modules],
            "words": {w: list(t) for w, t in self.words.items()},
        }


def taps(
    model: str,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    factory: Factory | str | None = None,
    trust: Trust = False,
) -> Tapped:
    """What can be tapped in a model, which is shown a few inputs of noise or text.

    Args:
        model: the name of one of Preceptor's, ``package.module:name``, ``RUN`` or ``RUN:best``, or a folder that
            transformers has saved.
        num_classes: of a model by name; 10 by default.
        input_shape: of one input, without the batch axis, where that is not known; (bytes,) for one that reads texts.
        options: of a model by name.
        factory: what makes the model of a run that was trained with one of somebody's own.
        trust: as of `preceptor.load`.

    Raises:
        InputError: no such model, or no shape of its inputs; it cannot take them, or takes several by name.

    >>> taps("mlp", input_shape=(4,), options={"hidden": [3]}).words["penultimate"]
    ('3:input',)
    """
    if _is_path(model):
        if num_classes is not None or options:
            raise InputError(f"'{model}' is made already, with its classes; leave num_classes and options out")
        module, known = _of_path(model, factory, trust)
        shape = tuple(input_shape or known)
    else:
        shape = tuple(input_shape or ())
        module = _by_name(model, num_classes or 10, shape, options or {})
    look = _looked(module.eval(), model, shape)
    return Tapped(tuple(_tappable(look, each) for each in look.seen), {word: _stands_for(look, word) for word in WORDS})


def _tappable(look: Look, seen: Seen) -> Tappable:
    shapes = (_shape(seen.given), _shape(seen.gave))
    channels = (_channels(look, seen.given), _channels(look, seen.gave))
    return Tappable(seen.name, type(seen.module).__name__, seen.calls, *shapes, *channels)


def _channels(look: Look, tensor: Tensor | None) -> str | None:
    if tensor is None or tensor.ndim != 4 or len(tensor) != _BATCH:
        return None
    return "unknown" if look.layouts.is_open(tensor) else look.layouts.of(tensor) or "first"


def _is_path(name: str) -> bool:
    return name not in names.names("model") and ("/" in name or Path(name.partition(":")[0]).exists())


def _of_path(name: str, factory: Factory | str | None, trust: Trust) -> tuple[nn.Module, tuple[int, ...]]:
    """The model of a run, or one that transformers has saved, and the shape of its inputs, () where nothing says it."""
    if kind_of(Path(name)) != "pretrained":
        run = served(name, model=factory, trust=trust)
        return run.model, run.weights.input_shape
    found: Any = pretrained_of(Path(name))
    if isinstance(found, CausalLM):
        return found, ()  # its inputs go by name
    if isinstance(found, TextClassifier):
        return found, (len(_TEXT),)
    config = getattr(found.config, "vision_config", found.config)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    said = getattr(found, "_as_teacher", {}).get("input_shape", ())
    if isinstance(size, int):
        size = (size, size)
    return found, tuple(said) or (() if size is None else (channels, *size))


def _by_name(name: str, num_classes: int, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> nn.Module:
    names.find("model", name, trust=True)  # a name that there is not is said before a shape that is not given
    supplied = {"num_classes": num_classes, "input_shape": input_shape}
    _require(input_shape, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return names.call("model", Component.model_validate({"name": name, **options}), supplied, trust=True)


def _require(input_shape: tuple[int, ...], name: str) -> None:
    if not input_shape or min(input_shape) < 1:
        raise InputError(
            f"nothing says what the model '{name}' reads; give the shape of one input as input_shape, such as 3,32,32, "
            "or the bytes of a text (a model with several inputs by name cannot be shown)",
            argument="input_shape",
        )


def _looked(model: nn.Module, name: str, input_shape: tuple[int, ...]) -> Look:
    """One pass on noise, or, where a model refuses that and reads rows, on a text."""
    _require(input_shape, name)
    noise = torch.randn(_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        return Look(model, lambda: call(model, noise), "model")
    except InputError:
        raise
    except Exception as error:  # of anybody's model
        if len(input_shape) > 1:
            raise _cannot_take(name, input_shape, error) from error
    length = sum(input_shape)  # of one axis
    text = torch.tensor([*_TEXT.ljust(length, b"\0")[:length]], dtype=torch.uint8)
    try:
        return Look(model, lambda: call(model, text.expand(_BATCH, -1)), "model")
    except Exception as error:
        raise _cannot_take(name, input_shape, error) from error


def _cannot_take(name: str, input_shape: tuple[int, ...], error: Exception) -> InputError:
    said = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"the model '{name}' cannot take inputs of shape {input_shape}: {said}; give the shape of one that it takes",
        argument="input_shape",
    )


def _shape(tensor: Tensor | None) -> tuple[int | str, ...] | None:
    if tensor is None:
        return None
    return ("B", *tensor.shape[1:]) if len(tensor.shape) and len(tensor) == _BATCH else tuple(tensor.shape)


def _stands_for(look: Look, word: str) -> tuple[str, ...]:
    try:
        return tuple(look.resolve([word]))
    except InputError:
        return ()
