"""What losses have in common that look into the models: where they look, parts of their own, how features are read."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from preceptor.errors import InputError

Features = Mapping[str, Tensor]
"""What was caught in one forward pass, by tap, in the order of the taps; the batch is the first axis of each, and of
maps the channels the second, whatever the model's own order.
"""

PENULTIMATE = "penultimate"
"""The tap of what the classifier is given: (B, D) of a classifier, (B, T, D) where it reads tokens."""
LAST = "last"
"""The tap of the last map before pooling, (B, C, H, W), or of the last tokens, (B, T, D)."""
STAGES = "stages"
"""The taps of the ends of a model's stages, one a spatial size, or of some blocks of a transformer."""

PREACTIVATIONS = "preactivations"
"""The taps of what the activations are given that end the stages, or come first behind them."""


@dataclass(frozen=True)
class Published:
    """How a loss was weighed where it was published.

    Args:
        distill_weight: of the loss.
        ce_weight: of the cross-entropy beside it.
        of_student: the weight where the student is another, by the name of its model.
        source: where these stand.
    """

    distill_weight: float = 1.0
    ce_weight: float = 1.0
    of_student: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Setting:
    """What a loss may want to know when it is built, beside the features of a few samples.

    Args:
        num_samples: N, size of the data set that ``index`` points into.
        num_classes: C.
        labels: int64 (N,) of that data set, where they are known: -1 is a sample without a label that may be looked at.
        teacher_head: the teacher's classifier, the module whose output are its logits; None where there is none.
        student, teacher: the models themselves; no teacher where its features come from a record.
        preprocessing: how raw values became inputs (`Data.preprocessing`); empty where it is not known.
    """

    num_samples: int
    num_classes: int
    labels: Tensor | None = None
    teacher_head: nn.Module | None = None
    student: nn.Module | None = None
    teacher: nn.Module | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


_BESIDE_PATCHES = 8  # tokens of a class and registers: DINOv2 has five

Gather = Callable[[Tensor], Tensor]
"""From a tensor (n, ...) to those of all processes, one after the other: (processes * n, ...)."""


class FeatureLoss(nn.Module):
    """A student's loss that looks into the models, perhaps with parts of its own, such as a regressor.

    Its parameters are made in `build`, trained beside the student's and saved with the run; they are no part of the
    student's weights. `forward` is called with the samples that count alone, and gives one value for each, (B,), or
    one for the batch; it takes by name what it needs of ``labels``, ``index``, ``student_features`` and
    ``teacher_features``, and of ``student_views``, ``teacher_views``, ``student_view_features`` and
    ``teacher_view_features`` where it makes views (docs/architecture.md). It may have these methods:

    - ``views(input: Tensor) -> Tensor``: from inputs (B, ...) to further ones (E * B, ...), view after view, which both
      models are shown beside them. The names above then are logits (E, B, C), and features of leading shape (E, B);
    - ``start_epoch(epoch, epochs)``: before each epoch; ``epoch`` counts from 0;
    - ``end_step(gather: Gather)``: after each optimizer step, on every process, for a memory of its own in buffers.

    Args:
        student: where to look in the student: names of modules, patterns of them (``blocks.*.act``), ``NAME:input``
            for what a module is given, or the words ``penultimate``, ``last``, ``stages``, ``preactivations``.
        teacher: the same in the teacher; by default as in the student.

    Attributes:
        student_taps, teacher_taps: the same; where the models are known, what they stand for there.
        student_image, teacher_image: height and width of the images that the models see, as far as they are known: how
            their tokens are laid out as maps (`as_map`).
        alone: whether the loss to the labels waits for now, as while parts are trained before the student is.
    """

    published: ClassVar[Published] = Published()
    default_taps: ClassVar[tuple[str, ...]] = (PENULTIMATE,)
    batch_level: ClassVar[bool] = False
    """Whether it is a statement about a batch, a scalar, of which micro-batches do not add up to the whole."""

    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    student_image: tuple[int, int] | None = None
    teacher_image: tuple[int, int] | None = None
    alone: bool

    def __init__(
        self, *, student: str | Sequence[str] | None = None, teacher: str | Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.alone = False
        self.student_taps = taps(student, self.default_taps)
        self.teacher_taps = taps(teacher, self.student_taps)

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the parts that depend on shapes; called once, before training, under a generator of its own.

        Args:
            student, teacher: features of a few samples, in the order of the taps.
            setting: what else is known.

        Raises:
            InputError: these features are none that it could compare.
        """

    @classmethod
    def weights(cls, student: str = "") -> dict[str, float]:
        """How it was weighed where it was published, by the names of a recipe.

        Args:
            student: the name of the student's model, if it is one of ours.
        """
        weights = cls.published
        return {
            "ce_weight": weights.ce_weight,
            "distill_weight": weights.of_student.get(student, weights.distill_weight),
        }

    def check_pairs(self, student: Features, teacher: Features) -> None:
        """Refuse another number of the student's features than of the teacher's."""
        if len(student) != len(teacher):
            raise InputError(
                f"the loss '{type(self).__name__}' compares {len(student)} features of the student "
                f"({', '.join(student)}) with {len(teacher)} of the teacher ({', '.join(teacher)}); name as many "
                "of each"
            )


def taps(given: str | Sequence[str] | None, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """One name or several as several.

    Raises:
        InputError: none, or something else than names.
    """
    if given is None:
        return otherwise
    names: tuple[Any, ...] = (given,) if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
    if not names or not all(isinstance(name, str) and name for name in names):
        quoted = f", in quotes: '{given}'" if isinstance(given, int) else ""
        raise InputError(f"the taps are {given!r}; give one name of a module or several{quoted}")
    return names


def working(feature: Tensor) -> Tensor:
    """In float32 at least: sums of squares of half precision overflow."""
    return feature.to(torch.promote_types(feature.dtype, torch.float32))


def only(features: Features) -> Tensor:
    """The feature, where a loss looks at one.

    Raises:
        InputError: there are several.
    """
    if len(features) != 1:
        raise InputError(
            f"the loss looks at one feature of each model, and here are {len(features)} ({', '.join(features)}); name "
            "one"
        )
    [found] = features.values()
    return found


def as_map(feature: Tensor, image: tuple[int, int] | None = None) -> Tensor:
    """A feature as maps (B, C, H, W): tokens that tile an image are laid out, without the class's and registers.

    What has four axes is taken as it is: a task, and a record, catch the maps of channels-last models with their
    channels first (`preceptor taps` says which those are), as a shape alone would not tell.

    Args:
        image: height and width of the images that the tokens are of; None are squares.

    Raises:
        InputError: it is neither maps nor tokens, or tokens that do not tile such images.

    >>> import torch
    >>> as_map(torch.zeros(2, 50, 192)).shape, as_map(torch.zeros(2, 16, 16, 24)).shape
    (torch.Size([2, 192, 7, 7]), torch.Size([2, 16, 16, 24]))
    >>> as_map(torch.zeros(2, 33, 192), (32, 64)).shape
    torch.Size([2, 192, 4, 8])
    """
    if feature.ndim == 4:
        return feature
    if feature.ndim == 3 and feature.shape[1]:
        batch, tokens, channels = feature.shape
        height, width = patch_grid(tokens, image)
        grid = feature[:, tokens - height * width :]
        return grid.transpose(1, 2).reshape(batch, channels, height, width)
    raise InputError(f"a feature of shape {tuple(feature.shape)} is neither maps (B, C, H, W) nor tokens (B, T, D)")


@functools.lru_cache(maxsize=1024)
def patch_grid(tokens: int, image: tuple[int, int] | None) -> tuple[int, int]:
    """How many patches tokens have, down and across; those before them are the class's and registers.

    Of a square image, and of one that is not known, they are the largest square. Of another the patches are squares of
    pixels that tile it, the smallest of which there are enough tokens, with at most 8 beside them; or, where the last
    row or column is cut or padded and there are none beside, the one grid that there is.

    Args:
        tokens: one at least.
        image: height and width.

    Raises:
        InputError: no such patches.

    >>> patch_grid(50, None), patch_grid(33, (32, 64)), patch_grid(37, (64, 32)), patch_grid(15, (20, 36))
    ((7, 7), (4, 8), (8, 4), (3, 5))
    """
    if image is None or image[0] == image[1]:
        side = math.isqrt(tokens)
        return side, side
    height, width = image
    sizes = range(1, min(image) + 1)
    whole = [(height // size, width // size) for size in sizes if height % size == width % size == 0]
    for down, across in whole:  # the smallest patches first
        if 0 <= tokens - down * across <= _BESIDE_PATCHES:
            return down, across
    cut = {(height // size, width // size) for size in sizes} | {
        (-(-height // size), -(-width // size)) for size in sizes
    }
    found = [grid for grid in cut if grid[0] * grid[1] == tokens]
    if len(found) != 1:
        raise InputError(
            f"a feature has {tokens} tokens, which are no patches of an image of {height} x {width} pixels, to be laid "
            "out as a map; name modules whose outputs are maps (B, C, H, W), or take a loss of vectors, such as RKD"
        )
    return found[0]


def as_vector(feature: Tensor) -> Tensor:
    """A feature as one vector a sample, (B, D): the mean of maps over space, of tokens over tokens.

    >>> import torch
    >>> as_vector(torch.ones(2, 8, 4, 4)).shape
    torch.Size([2, 8])
    """
    if feature.ndim == 2:
        return feature
    if feature.ndim == 3:
        return feature.mean(1)
    return as_map(feature).mean((-2, -1))


def flat(feature: Tensor) -> Tensor:
    """All values of a sample as one vector, (B, D)."""
    return feature.reshape(len(feature), -1)


def widths(features: Features) -> list[int]:
    """The number of channels of each feature."""
    return [(feature if feature.ndim == 2 else as_map(feature)).shape[1] for feature in features.values()]


def gradient_free(features: Features) -> dict[str, Tensor]:
    """A teacher's features, through which no gradient flows."""
    return {name: feature.detach() for name, feature in features.items()}


def count(what: str, value: Any, least: int, why: str = "") -> None:
    """Refuse an option of a loss that is no whole number, or too small.

    Raises:
        InputError: naming it, perhaps with the reason for the least.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{what} is {value!r}; give a whole number of at least {least}{why}")


def expect(what: str, value: Any, fits: bool, wanted: str) -> None:
    """Refuse an option of a loss.

    Raises:
        InputError: it does not fit.
    """
    if not fits:
        raise InputError(f"{what} is {value!r}; give {wanted}")


__all__ = [
    "LAST",
    "PENULTIMATE",
    "PREACTIVATIONS",
    "STAGES",
    "FeatureLoss",
    "Features",
    "Gather",
    "Published",
    "Setting",
    "as_map",
    "as_vector",
    "count",
    "expect",
    "flat",
    "gradient_free",
    "only",
    "patch_grid",
    "taps",
    "widths",
]
