"""CWD: match where each channel is large."""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses._common import check_temperature, kl_divergence
from preceptor.losses.features._adapters import widened
from preceptor.losses.features._maps import MapLoss, Pair, of_one_size
from preceptor.losses.features.base import Published, Setting


def cwd(
    student: Float[Tensor, "batch channels h w"],
    teacher: Float[Tensor, "batch channels h w"],
    *,
    temperature: float = 4.0,
) -> Float[Tensor, " batch"]:
    """The mean over channels of T^2 KL(teacher || student) of softmaxes over positions, one value a sample.

    Less is better.

    >>> import torch
    >>> cwd(torch.zeros(1, 2, 1, 2), torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]]), temperature=1.0)
    tensor([0.1639])
    """
    log_p, log_q = ((x.flatten(2) / temperature).log_softmax(2) for x in (teacher.detach(), student))
    return temperature**2 * kl_divergence(log_p, log_q).mean(1)


class CWD(MapLoss):
    """Channel-wise distillation: T^2 KL of each channel's softmax over positions, mean over channels, summed over taps.

    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (ICCV 2021, arXiv 2011.13256), for feature
    maps; the weight and temperature are the paper's for these, where mmrazor has 1 for the temperature. Where the
    student has another number of channels, it passes a 1x1 convolution; the larger map is averaged to the size of the
    smaller.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        temperature: T > 0.

    Raises:
        InputError: temperature is not positive.
    """

    published: ClassVar[Published] = Published(distill_weight=50.0, source="the paper, feature maps of segmentation")
    over_space: ClassVar[bool] = True
    widen: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        check_temperature(temperature)
        self.temperature: float = temperature

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.widen = nn.ModuleList(widened(*pair) for pair in pairs)

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        pair = of_one_size(self.widen[level](student).to(student.dtype), teacher)
        return cwd(*pair, temperature=self.temperature)
