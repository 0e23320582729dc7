"""Where the channels of a model's maps are: decided once a tap, from one watched pass, so that no loss has to guess."""

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

Layout = Literal["first", "last"]
"""Which axis behind the batch the channels are: ``first`` of (B, C, H, W), ``last`` of (B, H, W, C)."""

_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LocalResponseNorm, nn.MaxPool2d,
    nn.AvgPool2d, nn.LPPool2d, nn.FractionalMaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout2d,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
_KEEPING = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardsigmoid, nn.Hardtanh, nn.Identity, nn.Dropout, nn.LayerNorm,
)  # fmt: skip


class Called(Protocol):
    """A module in one forward pass, as `preceptor.tasks.looking.Seen`."""

    name: str
    module: nn.Module
    given: Tensor | None
    gave: Tensor | None


class Layouts:
    """Where the channels are of each map in one forward pass.

    What is known of some modules (a convolution's channels come first, those of a linear layer or a plain LayerNorm
    last) is carried on to what has the same tensors, keeps their shape, or ends with them. What that leaves open is
    read off its shape, of which two axes are to have the ratio of the image's height and width, and then off the other
    maps of the model, if all are alike.

    Args:
        seen: the modules, in the order in which they ended.
        image: what the model was given, (B, C, H, W); None, or of other axes, where it is no image.

    >>> import torch
    >>> from preceptor.tasks.looking import Look
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
    >>> look = Look(model, lambda: model(torch.zeros(2, 3, 16, 24)), "student")
    >>> look.layouts.of(look.seen[1].gave)  # (2, 16, 16, 24)
    'first'
    """

    def __init__(self, seen: Sequence[Called], image: Tensor | None) -> None:
        self._seen = [each for each in seen if _is_map(each.given) or _is_map(each.gave)]
        self._image = image if _is_map(image) else None
        self._known: dict[int, Layout] = {}
        kinds: list[tuple[Called, Layout | None]] = [(each, _by_kind(each.module)) for each in self._seen]
        for each, kind in sorted(
            kinds, key=lambda pair: pair[1] == "first"
        ):  # a convolution, sure of its axes, is last
            if kind is not None:
                self._know(kind, each.given, each.gave)
        self._carry_on()
        said: set[Layout] = {*self._known.values()}
        self._all: Layout | None = next(iter(said)) if len(said) == 1 else None
        if self._image is not None and id(self._image) not in self._known:
            self._know("first", self._image)
            self._carry_on()

    def of(self, tensor: Tensor | None) -> Layout | None:
        """The layout of a map of this pass; None where that is no map, or cannot be told."""
        if tensor is None or not _is_map(tensor):
            return None
        return self._known.get(id(tensor)) or self._by_ratio(tensor) or self._all

    def is_open(self, tensor: Tensor | None) -> bool:
        """Whether it is a map by its shape, of which it cannot be told where the channels are."""
        if tensor is None or not _is_map(tensor) or self._image is None or self.of(tensor) is not None:
            return False
        return self._fits(*tensor.shape[2:])  # else it has no axes that could be those of an image

    def _know(self, layout: Layout, *tensors: Tensor | None) -> bool:
        new = [each for each in tensors if _is_map(each) and self._known.get(id(each)) != layout]
        self._known |= {id(each): layout for each in new}
        return bool(new)

    def _carry_on(self) -> None:
        while sum(self._carried(each) for each in self._seen):
            pass

    def _carried(self, each: Called) -> bool:
        """Whether more is known now of what a module was given or gave."""
        given, gave = self._known.get(id(each.given)), self._known.get(id(each.gave))
        found = given or gave
        if found is not None and (given is None or gave is None) and _keeps_axes(each):
            return self._know(found, each.given, each.gave)
        return gave is None and self._from_within(each)

    def _from_within(self, each: Called) -> bool:
        """What its parts say that gave maps of the same shape, if they agree; of a cube all parts have to."""
        if each.gave is None or not _is_map(each.gave):
            return False
        shape = each.gave.shape
        parts = [part.gave for part in self._seen if part.name.startswith(f"{each.name}.") and part.gave is not None]
        asked = parts if _is_cube(each.gave) else [part for part in parts if part.shape == shape]
        said: set[Layout] = {found for part in asked if (found := self._known.get(id(part))) is not None}
        return len(said) == 1 and self._know(said.pop(), each.gave)

    def _by_ratio(self, tensor: Tensor) -> Layout | None:
        if self._image is None:
            return None
        _, a, b, c = tensor.shape
        for pixels in (0, 1):  # sizes are rounded
            first, last = self._fits(b, c, pixels), self._fits(a, b, pixels)
            if first != last:
                return "first" if first else "last"
        return None

    def _fits(self, height: int, width: int, pixels: int = 1) -> bool:
        assert self._image is not None
        rows, columns = self._image.shape[2:]
        return abs(height * columns - width * rows) <= pixels * max(rows, columns)


def channels_first(feature: Tensor) -> Tensor:
    """Maps (B, H, W, C) as (B, C, H, W)."""
    return feature.movedim(-1, 1)


def _by_kind(module: nn.Module) -> Layout | None:
    if isinstance(module, _FIRST):
        return "first"
    # Of those that are derived some turn their input first, as those of ConvNeXt.
    plain = type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    return "last" if plain or type(module) is nn.Linear else None


def _keeps_axes(each: Called) -> bool:
    """Whether what a module gives has the axes of what it was given: where all are of one length, it may turn them."""
    if each.given is None or each.gave is None or each.given.shape != each.gave.shape:
        return False
    return isinstance(each.module, _KEEPING) or not _is_cube(each.gave)


def _is_cube(tensor: Tensor) -> bool:
    return len(set(tensor.shape[1:])) == 1


def _is_map(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 4
