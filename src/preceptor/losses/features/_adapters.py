"""Small nets that bring a student's maps to the shape of a teacher's."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.losses.features._maps import shrunk


class Norm(nn.BatchNorm2d):
    """Batch norm that takes the running statistics where a channel has a single value: it has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() <= input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Regressor(nn.Module):
    """Convolution and batch norm, perhaps ReLU, from a student's maps to the channels and the size of a teacher's.

    From twice the size a 3x3 convolution of stride 2; from half a 4x4 transposed one; from any size between the
    teacher's and twice that, a convolution whose kernel takes off the difference. These are the released code's. A
    student larger still is averaged to twice the teacher's size first; any other stays of the student's size, and the
    teacher's maps are averaged to it.

    Args:
        student: shape of the student's maps, (..., C, H, W).
        teacher: shape of the teacher's.
        relu: whether ReLU comes last.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, relu: bool) -> None:
        super().__init__()
        channels, wanted = student[-3], teacher[-3]
        large = tuple(min(of_student, 2 * of_teacher) for of_student, of_teacher in _sides(student, teacher))
        self.size: tuple[int, ...] = large
        sides = list(zip(large, teacher[-2:], strict=True))
        if all(of_student == 2 * of_teacher for of_student, of_teacher in sides):
            self.conv: nn.Module = nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
        elif all(2 * of_student == of_teacher for of_student, of_teacher in sides):
            self.conv = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
        elif all(of_student >= of_teacher for of_student, of_teacher in sides):
            height, width = (1 + of_student - of_teacher for of_student, of_teacher in sides)
            self.conv = nn.Conv2d(channels, wanted, (height, width))
        else:
            self.conv = nn.Conv2d(channels, wanted, 1)
        self.norm: Norm = Norm(wanted)
        self.relu: bool = relu

    def forward(self, student: Tensor) -> Tensor:
        found = self.norm(self.conv(shrunk(student, self.size)))
        return F.relu(found) if self.relu else found


def _sides(student: Sequence[int], teacher: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(student[-2:], teacher[-2:], strict=True))


def widened(student: Tensor, teacher: Tensor, *, bias: bool = True) -> nn.Module:
    """A 1x1 convolution from the student's channels to the teacher's; nothing where they are as many."""
    channels, wanted = student.shape[1], teacher.shape[1]
    return nn.Identity() if channels == wanted else nn.Conv2d(channels, wanted, 1, bias=bias)


def connector(channels: int, wanted: int) -> nn.Sequential:
    """A 1x1 convolution without bias, normal by its fan-out, and batch norm."""
    conv = nn.Conv2d(channels, wanted, 1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / wanted))
    return nn.Sequential(conv, Norm(wanted))
