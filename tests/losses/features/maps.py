"""What the tests of losses of maps share."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.losses.features.base import FeatureLoss, Setting

SETTING = Setting(num_samples=50, num_classes=3)


def features(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Normally distributed features of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{n}": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for n, shape in enumerate(shapes)
    }


def built(
    loss: FeatureLoss, student: dict[str, Tensor], teacher: dict[str, Tensor], setting: Setting = SETTING
) -> FeatureLoss:
    """The loss with parts for these features, drawn anew, in double precision where the features are."""
    torch.manual_seed(0)
    loss.build(student, teacher, setting)
    return loss.double() if next(iter(student.values())).dtype == torch.float64 else loss


def value(loss: nn.Module, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    """The loss of features alone."""
    logits = torch.zeros(len(next(iter(student.values()))), 3)
    return loss(logits, logits, student_features=student, teacher_features=teacher)


def gradients(loss: nn.Module, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the gradient of its sum in the student's features; zeros where there is none."""
    leaves = {name: feature.detach().clone().requires_grad_() for name, feature in student.items()}
    found = value(loss, leaves, teacher)
    grads = torch.autograd.grad(found.sum(), list(leaves.values()), allow_unused=True)
    return found.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), grads, strict=True)
    ]


def pooled(feature: Any, height: int, width: int) -> np.ndarray:
    """Averages over a grid of cells, by torch's rule for their borders, in a slow loop."""
    feature = np.asarray(feature)
    found = np.zeros((*feature.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = i * feature.shape[2] // height, -(-(i + 1) * feature.shape[2] // height)
            left, right = j * feature.shape[3] // width, -(-(j + 1) * feature.shape[3] // width)
            found[:, :, i, j] = feature[:, :, top:bottom, left:right].mean((2, 3))
    return found
