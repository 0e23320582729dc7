"""OFD: match what is about to pass the ReLU, and of the rest only how much too large it is."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import connector
from preceptor.losses.features._maps import MapLoss, Pair, shrunk, size
from preceptor.losses.features.base import PREACTIVATIONS, Features, Published, Setting

RARE = 0.001  # a channel that is negative more seldom has the margin of -3 deviations
INPUT = ":input"


def ofd(
    student: Float[Tensor, "batch channels h w"],
    teacher: Float[Tensor, "batch channels h w"],
    margin: Float[Tensor, " channels"],
) -> Float[Tensor, " batch"]:
    """The partial squared distance of pre-activations, summed over all elements, one value a sample; less is better.

    The target is the teacher's value, or the margin of its channel where that is larger. Where the target is not
    positive, a student below it is right, as both are cut off.

    >>> import torch
    >>> teacher = torch.tensor([[[[2.0, -5.0, -5.0]]]])
    >>> ofd(torch.tensor([[[[1.0, -3.0, 0.0]]]]), teacher, torch.tensor([-1.0]))
    tensor([2.])
    """
    target = torch.maximum(teacher.detach(), margin[:, None, None].to(teacher.dtype))
    counts = (student > target) | (target > 0)
    return torch.where(counts, student - target, 0.0).square().flatten(1).sum(1)


def margin_of_norm(norm: nn.BatchNorm2d) -> Float[Tensor, " channels"]:
    """The mean of the negative values of each channel behind a batch norm, were they normal: E[x | x < 0].

    -3 deviations of a channel that is negative with a probability of 0.001 or less.
    """
    mean = norm.running_mean
    ones = torch.ones(norm.num_features, dtype=torch.float64, device=None if mean is None else mean.device)
    deviation = ones if norm.weight is None else norm.weight.detach().double().abs().clamp(min=1e-12)
    shift = 0 * ones if norm.bias is None else norm.bias.detach().double()
    ratio = shift / deviation
    below = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(below > RARE, shift - deviation * density / below.clamp(min=RARE), -3 * deviation).float()


def margin_of_values(teacher: Float[Tensor, "batch channels h w"]) -> Float[Tensor, " channels"]:
    """The mean of the negative values of each channel among these; -3 deviations where they are as rare."""
    values = teacher.detach().double().transpose(0, 1).flatten(1)
    negative = values < 0
    mean = torch.where(negative, values, 0.0).sum(1) / negative.sum(1).clamp(min=1)
    return torch.where(negative.double().mean(1) > RARE, mean, -3 * values.std(1, correction=0)).float()


def norm_before(model: nn.Module | None, tap: str) -> nn.BatchNorm2d | None:
    """The batch norm that a tap is the output of: its module, or the one beside it that was made last before it."""
    modules = {} if model is None else dict(model.named_modules())
    name = tap.removesuffix(INPUT)
    above, _, own = name.rpartition(".")
    if name not in modules:
        return None
    if not tap.endswith(INPUT):  # what another module gives has passed its ReLU, or is no output of a batch norm
        nearest = [modules[name]]
    elif isinstance(modules[above], nn.BatchNorm2d):
        nearest = [modules[above]]  # one with an activation of its own, as timm has them
    else:
        beside = list(modules[above].named_children())
        nearest = [module for _, module in reversed(beside[: [each for each, _ in beside].index(own)])]
    return next((module for module in nearest if isinstance(module, nn.BatchNorm2d)), None)


class OFD(MapLoss):
    """Overhaul of feature distillation: partial squared distances before the ReLUs, the stages weighed 1/4, 1/2, 1.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation" (ICCV 2019, arXiv 1904.01866). The student's features
    pass a 1x1 convolution and batch norm; the teacher's are averaged to the student's size, as in mdistiller. A
    channel's margin is the mean of its negative values by the weight and bias of the batch norm before the ReLU; where
    a tap has none, by the samples that the loss is built from. A sum over all elements, hence the small weight. There
    the teacher's batch norms are in training mode; here they are in evaluation mode, as every teacher's.
    """

    published: ClassVar[Published] = Published(distill_weight=1e-3, source="overhaul-distillation, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = (PREACTIVATIONS,)
    connectors: nn.ModuleList

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        super().build(student, teacher, setting)
        for level, (tap, (_, of_teacher)) in enumerate(zip(teacher, self.pairs(student, teacher), strict=True)):
            norm = norm_before(setting.teacher, tap)
            fits = norm is not None and norm.num_features == of_teacher.shape[1]
            margin = margin_of_norm(norm) if norm is not None and fits else margin_of_values(of_teacher)
            self.register_buffer(f"margin{level}", margin)

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.connectors = nn.ModuleList(connector(one.shape[1], other.shape[1]) for one, other in pairs)

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        found = self.connectors[level](student).to(student.dtype)
        value = ofd(found, shrunk(teacher, size(found)), self.get_buffer(f"margin{level}"))
        return value / 2 ** (len(self.connectors) - 1 - level)
