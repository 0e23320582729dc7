"""HSAKD: classifiers of class and rotation at every stage, of the student as of the teacher."""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.features._adapters import Norm
from preceptor.losses.features._alone import is_alone
from preceptor.losses.features._maps import maps, size
from preceptor.losses.features.base import STAGES, FeatureLoss, Features, Published, Setting, count, expect, working
from preceptor.losses.kd import kd

ROTATIONS = 4


class HSAKD(FeatureLoss):
    """The sum of `kd` over the auxiliary classifiers of each stage and of `kd` of the logits, on four rotations.

    Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation" (IJCAI 2021, arXiv 2107.13715). Behind
    each stage a classifier tells class and rotation, C x 4 classes, of the image and of it turned by 90, 180 and 270
    degrees; the student's learn from the teacher's alone. The teacher's are trained on labels in the first
    `init_epochs`, while all else waits; the released code trains them before, in 240 epochs of their own on a frozen
    teacher (or together with it, which no student can do). Its classifiers repeat the network's own later stages; here
    each of these is `blocks` residual blocks of its width.

    Samples without a label are left out, as the teacher's classifiers learn from labels.

    Args:
        student: where to look in the student: maps (B, C, H, W) or tokens (B, T, D), the earliest stage first.
        teacher: the same in the teacher; by default as in the student.
        temperature: T > 0, of `kd`.
        init_epochs: in which the teacher's classifiers are trained.
        blocks: of each stage in a classifier.

    Raises:
        InputError: a temperature that is not above 0, or no epoch or block.
    """

    published: ClassVar[Published] = Published(source="released code, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = (STAGES,)

    alone: bool
    student_heads: nn.ModuleList
    teacher_heads: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        temperature: float = 3.0,
        init_epochs: int = 30,
        blocks: int = 1,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("temperature of HSAKD", temperature, temperature > 0, "a positive number, such as 3.0")
        count("init_epochs of HSAKD", init_epochs, 1)
        count("blocks of HSAKD", blocks, 1)
        self.temperature: float = temperature
        self.init_epochs: int = init_epochs
        self.blocks: int = blocks
        self.alone = True

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the classifiers of both models.

        Raises:
            InputError: there are not as many features of one as of the other.
        """
        self.check_pairs(student, teacher)
        classes = ROTATIONS * setting.num_classes
        self.student_heads = _heads(student, classes, self.blocks)
        self.teacher_heads = _heads(teacher, classes, self.blocks)

    def views(self, input: Tensor) -> Tensor:
        """The images (B, ..., S, S) turned by 90, 180 and 270 degrees, (3 * B, ..., S, S).

        Raises:
            InputError: they are no squares.
        """
        if input.ndim < 3 or input.shape[-1] != input.shape[-2]:
            raise InputError(
                f"the loss 'HSAKD' turns images by 90 degrees, and the inputs have shape {tuple(input.shape[1:])}; "
                "crop them to squares, or take another loss"
            )
        return torch.cat([torch.rot90(input, turns, (-2, -1)) for turns in range(1, ROTATIONS)])

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Train the teacher's classifiers alone in the first epochs.

        Raises:
            InputError: no epoch would be left for the student.
        """
        self.alone = is_alone("HSAKD", self.init_epochs, epoch, epochs)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        student_features: Features,
        teacher_features: Features,
        student_views: Tensor,
        teacher_views: Tensor,
        student_view_features: Features,
        teacher_view_features: Features,
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample, the mean over its rotations, in float32 at least; less is better.

        Args:
            student_logits, teacher_logits: (B, C).
            labels: class numbers (B,).
            student_features, teacher_features: by tap, (B, ...).
            student_views, teacher_views: the same of what `views` made, logits (3, B, C).
            student_view_features, teacher_view_features: features (3, B, ...).
        """
        rows = len(student_logits)
        with torch.set_grad_enabled(self.alone and torch.is_grad_enabled()):
            self.teacher_heads.train(self.alone and self.training)
            taught = _said(self.teacher_heads, teacher_features, teacher_view_features, detached=True)
        if self.alone:
            turned = ROTATIONS * labels.long() + torch.arange(ROTATIONS, device=labels.device)[:, None]
            found = [F.cross_entropy(logits, turned.flatten(), reduction="none") for logits in taught]
            return _mean(torch.stack(found).sum(0), rows)
        said = _said(self.student_heads, student_features, student_view_features)
        pairs = [
            *zip(said, taught, strict=True),
            (_all(student_logits, student_views), _all(teacher_logits, teacher_views)),
        ]
        values: list[Any] = [kd(ours, theirs, temperature=self.temperature) for ours, theirs in pairs]
        return _mean(torch.stack([value.to(values[0].dtype) for value in values]).sum(0), rows)


class Auxiliary(nn.Module):
    """From maps of a stage to logits: residual blocks for each later stage, average over space, linear layer.

    Args:
        shapes: channels and height of this stage and of those that follow; behind the last is one of its own width.
        num_classes: width of the logits.
        blocks: of each stage.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], num_classes: int, blocks: int) -> None:
        super().__init__()
        steps = list(itertools.pairwise(shapes)) or [(shapes[-1], shapes[-1])]
        layers: list[nn.Module] = []
        for (channels, before), (width, after) in steps:
            layers.append(Residual(channels, width, 2 if after < before else 1))
            layers += [Residual(width, width, 1) for _ in range(blocks - 1)]
        self.body: nn.Sequential = nn.Sequential(*layers)
        self.fc: nn.Linear = nn.Linear(shapes[-1][0], num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        return self.fc(self.body(maps).mean((-2, -1)))


class Residual(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), with 3x3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1: Norm = Norm(width)
        self.conv2: nn.Conv2d = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2: Norm = Norm(width)
        self.shortcut: nn.Sequential = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), Norm(width))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + inner)


def _heads(features: Features, num_classes: int, blocks: int) -> nn.ModuleList:
    shapes = [(each.shape[1], size(each)[0]) for each in (maps(feature) for feature in features.values())]
    return nn.ModuleList(Auxiliary(shapes[place:], num_classes, blocks) for place in range(len(shapes)))


def _said(heads: nn.ModuleList, features: Features, views: Features, *, detached: bool = False) -> list[Tensor]:
    """The logits of each classifier, (4 * B, ...), rotation after rotation."""
    found: list[Tensor] = []
    for head, name in zip(heads, features, strict=True):
        read = _all(features[name], views[name])
        given = maps(read.detach() if detached else read)
        found.append(working(head(given)).to(given.dtype))
    return found


def _all(tensor: Tensor, views: Tensor) -> Tensor:
    """What belongs to images (B, ...) and to their views (3, B, ...), view after view."""
    return torch.cat([tensor, views.flatten(0, 1)])


def _mean(values: Tensor, rows: int) -> Tensor:
    """Of each image over its rotations."""
    return values.unflatten(0, (ROTATIONS, rows)).mean(0)
