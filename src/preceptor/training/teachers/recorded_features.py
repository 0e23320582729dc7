"""A teacher's features as a recording stores them: which taps, under which names, as which numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean
from preceptor.tasks.building import CHANNELS_FIRST, looked_into
from preceptor.tasks.looking import Look
from preceptor.tasks.taps import Taps, check_features
from preceptor.tasks.teacher import Teacher, TeacherFn

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Features:
    """What is stored of a teacher's features.

    Args:
        teacher: the teacher, one live model.
        asked: taps, patterns and words, as a loss names them.
        dtype: of the stored numbers: float16, bfloat16 or float32.
        two: a batch of two samples.

    Attributes:
        taps: of each name that is stored the tap: the name that was asked for, or where that stands for several
            ``NAME.0``, ``NAME.1``...
        numbers: how many a sample.

    Raises:
        InputError: no such dtype or tap; a teacher that is no one live model; a name twice.
    """

    taps: dict[str, str]

    def __init__(self, teacher: TeacherFn, asked: Sequence[str], dtype: str, two: Mapping[str, Any]) -> None:
        if dtype not in DTYPES:
            raise InputError(
                f"the features' dtype is '{dtype}'; {did_you_mean(dtype, DTYPES)}", argument="features_dtype"
            )
        self.dtype: str = dtype
        self.numbers: int = 0
        self.turned: set[str] = set()
        self._maps: set[str] = set()
        self.taps = {}
        if not asked:
            return
        source = looked_into(teacher)
        if not isinstance(source, Teacher):
            raise InputError(
                "features are recorded of one live model, and the teacher is none; record each model by itself, or "
                "leave the features out",
                argument="features",
            )
        self.model: nn.Module = source.model
        look = Look(source.model, lambda: source.answer(two), "teacher")
        for name in asked:
            found = look.resolve([name])
            named = {name: found[0]} if len(found) == 1 else {f"{name}.{i}": tap for i, tap in enumerate(found)}
            twice = next((each for each in named if each in self.taps), None)
            if twice is not None:
                raise InputError(f"the features '{twice}' are asked for twice; name them once", argument="features")
            self.taps |= named
        look.refuse_open([*self.taps.values()])
        self.turned = look.turned([*self.taps.values()])
        features = self.of(teacher, two)[1]
        self.numbers = sum(each[0].numel() for each in features.values())
        self._maps = {name for name, each in features.items() if each.ndim == 4}

    @property
    def described(self) -> dict[str, str]:
        """Of each name the tap and the dtype, and of maps that their channels come first, for the manifest."""
        order = dict.fromkeys(self._maps, f", {CHANNELS_FIRST}")
        return {name: f"{tap} as {self.dtype}{order.get(name, '')}" for name, tap in self.taps.items()}

    def of(self, teacher: TeacherFn, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        """What the teacher says to a batch, and its features as they are stored.

        Raises:
            InputError: features whose first axis is not the batch, or too large for their dtype.
        """
        if not self.taps:
            return teacher(batch), {}
        with torch.no_grad(), self._looking() as caught:
            said = teacher(batch)
        check_features(caught, len(batch["label"]), "teacher")
        return said, {name: self._stored(name, caught[tap]) for name, tap in self.taps.items()}

    def _looking(self) -> Taps:
        return Taps(self.model, [*self.taps.values()], "teacher", turned=self.turned)

    def _stored(self, name: str, feature: Tensor) -> Tensor:
        stored = feature.to(DTYPES[self.dtype])
        if stored.isinf().any() and feature.isfinite().all():
            raise InputError(
                f"the features '{name}' reach {feature.abs().max():.3g}, more than {self.dtype} holds; record them in "
                "bfloat16 or float32",
                argument="features_dtype",
            )
        return stored
