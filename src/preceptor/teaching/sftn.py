"""The student-friendly teacher (arXiv 2102.07650): trained together with branches of a student's blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from preceptor import names
from preceptor.errors import InputError
from preceptor.losses.features.base import STAGES, Features, Setting, as_map
from preceptor.schema import Component
from preceptor.teaching.classification import cross_entropy

_TRIED = (2, 3, 32, 32)  # images on which a student is taken apart; its stem and first stage are not used


class SFTN(nn.Module):
    """CE(teacher) + mean over branches of ce_weight CE(branch) + kd_weight T^2 KL(teacher || branch), softened by T.

    Park et al. 2021 (arXiv 2102.07650). One value per example. Branch i reads the teacher's features
    after stage i by a 1x1 convolution, batch norm and ReLU, and goes on with the student's own later stages and
    classifier. The gradient of both parts reaches the teacher, also through its softened outputs. There are branches
    after all stages but the last that both have. The branches are parts of the objective and no part of the teacher's
    weights; the student is trained anew afterwards. No code was at hand, nor the paper's equations: the form of
    the sum, kd_weight and the direction of KL, that of distillation, are from second-hand descriptions.

    Args:
        student: what the branches are made of: a model by name, or a mapping of its name and options, such as
            ``{"name": "resnet8"}``. Its modules are conv1..., layer1, layer2, ..., fc, as those of ResNet and WRN.
        kd_weight: of KL.
        ce_weight: of the branches' cross-entropy.
        temperature: T.
        at: where the branches begin in the teacher: names of modules, or the word ``stages``.

    Raises:
        InputError: a negative weight, or a temperature that is not positive; in `build`, a student that cannot be taken
            apart, or a teacher without two stages of maps.

    >>> sftn = SFTN("resnet8")
    >>> maps = {f"layer{n}": torch.randn(2, 8 * n, 8, 8) for n in (1, 2, 3)}
    >>> sftn.build(maps, {}, Setting(num_samples=2, num_classes=10))
    >>> len(sftn.branches), sftn(torch.randn(2, 10), torch.tensor([1, 2]), student_features=maps).shape
    (2, torch.Size([2]))
    """

    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    branches: nn.ModuleList

    def __init__(
        self,
        student: str | Mapping[str, Any] = "resnet8",
        *,
        kd_weight: float = 3.0,
        ce_weight: float = 1.0,
        temperature: float = 1.0,
        at: str | Sequence[str] = STAGES,
    ) -> None:
        super().__init__()
        for name, value in (("kd_weight", kd_weight), ("ce_weight", ce_weight)):
            if not value >= 0:
                raise InputError(f"{name} of SFTN is {value}: choose 0 or more, for instance 1.")
        if not temperature > 0:
            raise InputError(f"temperature of SFTN is {temperature}: choose it above 0, for instance 1.")
        self.student: Component = Component.model_validate({"name": student} if isinstance(student, str) else student)
        self.kd_weight: float = kd_weight
        self.ce_weight: float = ce_weight
        self.temperature: float = temperature
        self.student_taps = (at,) if isinstance(at, str) else tuple(at)  # of the model that is trained: the teacher
        self.teacher_taps = ()
        self.student_image: tuple[int, int] | None = None
        self.branches = nn.ModuleList()

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the branches.

        Args:
            student: features of the teacher, which is the model that is trained, after its stages.
            teacher: none.
            setting: for the number of classes.
        """
        taken = _parts(self.student, setting.num_classes)
        maps = [as_map(feature, self.student_image) for feature in student.values() if feature.ndim > 2]
        count = min(len(maps), len(taken)) - 1
        if count < 1:
            raise InputError(
                f"SFTN needs maps of two stages or more of the teacher, and sees {len(maps)}: name such modules by "
                "objective.at=[...]."
            )
        branches = [_Branch(maps[place].shape[1], *taken[place]) for place in range(count)]
        self.branches = nn.ModuleList(branches)

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        labels: Int64[Tensor, " batch"],
        *,
        student_features: Features,
        mask: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The value of each example.

        Args:
            logits: the teacher's logits, shape (B, C).
            labels: class numbers in [0, C), shape (B,).
            student_features: of the teacher, which is the model that is trained, after its stages.
            mask: False marks examples that do not count, shape (B,); theirs is exactly 0, and no branch sees them.

        Raises:
            InputError: `build` has not been called.
        """
        if not len(self.branches):
            raise InputError("SFTN has no branches: call build(...) once, before training.")
        if mask is None or bool(mask.all()):
            return self._values(logits, labels, student_features)
        nothing = logits.float().masked_fill(~mask.unsqueeze(-1), 0).sum(-1) * 0
        if not mask.any():
            return nothing
        seen = {name: feature[mask] for name, feature in student_features.items()}
        return nothing.masked_scatter(mask, self._values(logits[mask], labels[mask], seen))

    def _values(self, logits: Tensor, labels: Tensor, student_features: Features) -> Tensor:
        log_teacher = (logits.float() / self.temperature).log_softmax(-1)
        hard, soft = torch.zeros_like(log_teacher[:, 0]), torch.zeros_like(log_teacher[:, 0])
        features = (feature for feature in student_features.values() if feature.ndim > 2)
        maps = (as_map(feature, self.student_image) for feature in features)
        for branch, feature in zip(self.branches, maps, strict=False):  # there is none after the last stage
            said = branch(feature)
            hard = hard + cross_entropy(said, labels)
            log_branch = (said.float() / self.temperature).log_softmax(-1)
            soft = soft + F.kl_div(log_branch, log_teacher, reduction="none", log_target=True).sum(-1)
        parts = self.ce_weight * hard + self.kd_weight * self.temperature**2 * soft
        return cross_entropy(logits, labels) + parts / len(self.branches)


class _Branch(nn.Module):
    """From a teacher's maps to logits, by a student's later stages."""

    def __init__(self, channels: int, width: int, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.adapter: nn.Sequential = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stages: nn.Module = stages
        self.head: nn.Module = head

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(self.stages(self.adapter(maps)).mean((-2, -1)))


def _parts(component: Component, num_classes: int) -> list[tuple[int, nn.Module, nn.Module]]:
    """After each stage of a student: its channels, and what is left of one of these, without and with classifier.

    Raises:
        InputError: it is no model of images whose modules, one after the other, are the model.
    """
    supplied = {"num_classes": num_classes, "input_shape": _TRIED[1:]}
    model = names.call("model", component, supplied, trust=True)
    children = dict(model.named_children())
    stages = [name for name in children if name.startswith("layer")]
    refused = InputError(
        f"the student '{component.name}' of SFTN cannot be taken apart: it is not its modules layer1, layer2, ... and "
        "fc one after the other, as ResNet and WRN are; name another, such as resnet8"
    )
    if len(stages) < 2 or list(children)[-1:] != ["fc"]:
        raise refused
    *before, _ = children
    images, found = torch.randn(_TRIED), []
    model.eval()
    with torch.no_grad():
        try:
            expected, maps = model(images), images
            for place, name in enumerate(before):
                maps = children[name](maps)
                if name in stages:
                    one: Any = names.call("model", component, supplied, trust=True)  # weights of each branch's own
                    left = nn.Sequential(*(module for _, module in list(one.named_children())[place + 1 : -1]))
                    found.append((maps.shape[1], left, one.fc))
            same = torch.allclose(model.fc(maps.mean((-2, -1))), expected, atol=1e-4)
        except (RuntimeError, IndexError, TypeError):
            raise refused from None
    if not same:
        raise refused
    return found
