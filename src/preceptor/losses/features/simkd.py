"""SimKD: a student that ends in its teacher's classifier."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.features._maps import maps, of_one_size
from preceptor.losses.features.base import LAST, FeatureLoss, Features, Published, Setting, only


class SimKD(FeatureLoss):
    """Mean squared difference of a projector's maps and the teacher's last ones, one value a sample; less is better.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022, arXiv 2203.14001). The student
    must be `preceptor.models.reused_head`, as it answers through its projector and the teacher's classifier, of which
    it is given the weights here, not to be trained. Larger maps are averaged to the size of the smaller; the released
    code does so before the projector, as the model does if it knows the teacher's size. Published is this loss alone.

    Args:
        student: where to look in the student: by default where its projector ends.
        teacher: where to look in the teacher: by default at its last maps.
    """

    published: ClassVar[Published] = Published(ce_weight=0.0, source="released code, CIFAR-100 and ImageNet")
    default_taps: ClassVar[tuple[str, ...]] = (LAST,)

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Give the student the teacher's classifier.

        Raises:
            InputError: the student has no place for it, or the teacher no linear one of its last maps' channels.
        """
        only(student)  # is refused if there are several, though nobody looks at it yet
        channels, head = maps(only(teacher), self.teacher_image).shape[1], setting.teacher_head
        if not isinstance(head, nn.Linear) or head.in_features != channels:
            found = "none that is known" if head is None else f"{head}"
            raise InputError(
                f"the loss 'SimKD' gives the student the teacher's classifier, a linear layer of the averages of its "
                f"{channels} last maps, and the teacher's is {found}; take another teacher, or SRRL"
            )
        own = getattr(setting.student, "fc", None)
        if not isinstance(own, nn.Linear) or not isinstance(getattr(setting.student, "projector", None), nn.Module):
            raise InputError(
                f"the loss 'SimKD' needs a student that ends in its teacher's classifier, and this is a "
                f"{type(setting.student).__name__}; take the model reused_head, of the model that the student was to "
                f"be, with {channels} channels"
            )
        if own.weight.shape != head.weight.shape:
            raise InputError(
                f"the student's classifier reads {own.in_features} channels and the teacher's {head.in_features}; "
                f"give the model reused_head {head.in_features} channels"
            )
        with torch.no_grad():
            own.weight.copy_(head.weight)
            own.bias.zero_() if head.bias is None else own.bias.copy_(head.bias)  # pyright: ignore
        own.requires_grad_(False)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample, in float32 at least.

        Args:
            student_logits: not looked at.
            teacher_logits: not looked at.
            student_features: the projector's maps (B, C, H, W).
            teacher_features: maps of as many channels, or tokens (B, T, C); no gradient flows to them.
        """
        student, teacher = of_one_size(
            maps(only(student_features), self.student_image),
            maps(only(teacher_features).detach(), self.teacher_image),
        )
        losses: Any = F.mse_loss(student, teacher, reduction="none").flatten(1).mean(1)
        return losses
