"""A student that ends in its teacher's classifier, for the loss `SimKD`."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean


class ReusedHead(nn.Module):
    """A network up to its last maps, a projector to a teacher's channels, global average pool, linear classifier.

    The projector is a 1x1, a 3x3 and a 1x1 convolution, the first two of half the teacher's channels, each with batch
    norm and ReLU.

    Args:
        trunk: has a method `forward_features`, from images to maps, and a linear layer behind it, which is left out.
        channels: of the teacher's last maps.
        size: height and width of these: larger maps of the student's are averaged to it before the projector.
        num_classes: width of the output, which is logits (B, num_classes).

    Attributes:
        fc: the classifier; `SimKD` gives it the teacher's weights, and they are not trained.
    """

    def __init__(self, trunk: nn.Module, channels: int, size: int | None, num_classes: int) -> None:
        super().__init__()
        [(name, own)] = [(name, each) for name, each in trunk.named_children() if isinstance(each, nn.Linear)]
        setattr(trunk, name, nn.Identity())
        inner = max(channels // 2, 1)
        self.trunk: Any = trunk
        self.size: int | None = size
        self.projector: nn.Sequential = nn.Sequential(
            *_conv(own.in_features, inner, 1), *_conv(inner, inner, 3), *_conv(inner, channels, 1)
        )
        self.fc: nn.Linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.trunk.forward_features(x)
        if self.size is not None and maps.shape[-2] > self.size:
            maps = F.adaptive_avg_pool2d(maps, self.size)
        return self.fc(self.projector(maps).mean((-2, -1)))


def _conv(channels: int, width: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def reused_head(
    *,
    num_classes: int,
    input_shape: Sequence[int] = (3, 32, 32),
    of: str,
    channels: int,
    size: int | None = None,
    **options: Any,
) -> ReusedHead:
    """A student of the loss `SimKD`, which ends in its teacher's classifier.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022, arXiv 2203.14001). The last
    maps of another model go through a projector to the teacher's channels.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
        of: the model that it is made of, such as ``resnet8x4``.
        channels: what the teacher's classifier is given, such as 256 of ``resnet32x4``.
        size: height and width of the teacher's last maps, where the student's are larger.
        options: of the model that it is made of.

    Raises:
        InputError: no such model, or one without maps behind which a linear layer follows; channels or size below 1.

    >>> import torch
    >>> model = reused_head(of="resnet8", channels=256, num_classes=10)
    >>> model(torch.zeros(2, 3, 32, 32)).shape, model.fc.in_features
    (torch.Size([2, 10]), 256)
    """
    from preceptor import models

    fit = [name for name in models.__all__ if name.startswith(("mobilenet", "resnet", "shufflenet", "vgg", "wrn"))]
    if of not in fit:
        raise InputError(f"there is no model called '{of}' whose last maps could be projected; {did_you_mean(of, fit)}")
    for name, value in (("channels", channels), ("size", size)):
        if value is not None and value < 1:
            raise InputError(f"{name} of reused_head is {value}; give that of the teacher's last maps")
    trunk = getattr(models, of)(num_classes=num_classes, input_shape=input_shape, **options)
    return ReusedHead(trunk, channels, size, num_classes)
