"""timm: its models as teachers, which are given images as they were trained on, and a task for its training loop."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.integrations.distillation import Distillation, Named, check_weights
from preceptor.tasks import Teacher, TeacherLike
from preceptor.training.teachers.preprocessing import conversion

if TYPE_CHECKING:
    from timm.task import TrainingTask  # pyright: ignore[reportMissingImports]

__all__ = ["distillation_task", "timm_teacher"]


def timm_teacher(
    model: nn.Module | str, *, student: nn.Module | Mapping[str, Any] | None = None, resize: bool | None = None
) -> Teacher:
    """A model of timm as a teacher that is given images normalised, and where it must be sized, as it was trained on.

    Args:
        model: one with its trained head, or a name such as ``"resnet50.a1_in1k"``, whose pretrained weights are loaded
            with the head that they have. Another `num_classes` than theirs would throw that head away.
        student: how the images in the loop are made: a student of timm, by its own configuration, or a mapping with
            ``mean`` and ``std`` (and ``divide_by``, 255 if it is not there), as `Data.preprocessing`. None: by
            `preceptor.distill`, which knows its data, or as for the teacher itself.
        resize: give it images of the size that it was trained on; by default where it takes no other.

    Returns:
        A teacher for any loop: called with ``{"input": images}``, float (B, channels, height, width).

    Raises:
        InputError: timm is not installed, it knows no such model or has no weights of it, the model has no head, or its
            images have other channels than the student's.
    """
    if isinstance(model, str):
        model = _pretrained(model)
    if getattr(model, "num_classes", None) == 0:
        raise InputError("the model of timm has no head, num_classes=0; give one with its trained head as the teacher")
    config = _config(model)
    shape = tuple(config["input_size"])
    teacher = Teacher(model, preprocessing=_normalize(config), input_shape=shape)
    fixed = bool(getattr(model, "pretrained_cfg", {}).get("fixed_input_size", False))
    resized = fixed if resize is None else resize
    if student is not None:
        ours = _normalize(_config(student)) if isinstance(student, nn.Module) else {"divide_by": 255.0, **student}
        normalized = conversion(teacher.preprocessing, shape, ours, shape)
        teacher.convert = functools.partial(_converted, normalized, shape[1:] if resized else None)
    return teacher


def distillation_task(
    student: nn.Module,
    teacher: TeacherLike | str | Path | Sequence[Any],
    criterion: Any = None,
    *,
    loss: Named = "kd",
    temperature: float | None = None,
    task_loss_weight: float = 0.1,
    distill_loss_weight: float = 0.9,
    **options: Any,
) -> "TrainingTask":
    """A task of `timm.task` with a loss of ours: ``task(input, target)`` gives ``loss, output, task_loss, kd_loss``.

    ``loss = task_loss_weight * task_loss + distill_loss_weight * kd_loss``: both weights as they are given, whereas in
    `timm.task.LogitDistillationTask` ``distill_loss_weight`` alone leaves the other at 1, and ``task_loss_weight``
    alone makes the other 1 minus it. `kd_loss` is a mean over the batch; ``loss="kd"`` has the value of timm's ``kl``.

    All else is timm's `ClassificationTask`: `prepare_distributed`, `compile`, EMA and `get_checkpoint_state` are about
    the student. The teacher is no submodule, follows the input's device and is always in eval mode.

    Args:
        student: what is trained.
        teacher: a module of timm, given images as it was trained on (`timm_teacher`); or as of `Distillation`.
        criterion: to the targets, as of `ClassificationTask`: soft targets of mixup are its business.
        loss, temperature: as of `Distillation`.
        task_loss_weight, distill_loss_weight: of `task_loss` and `kd_loss`.
        options: as of `ClassificationTask`: ``criterion_kwargs``, ``device``, ``dtype``, ``verbose``.

    Raises:
        InputError: as `timm_teacher` and `Distillation`; targets of mixed labels for a loss that needs class numbers.
    """
    check_weights(task_loss_weight=task_loss_weight, distill_loss_weight=distill_loss_weight)
    if isinstance(teacher, nn.Module) and hasattr(teacher, "pretrained_cfg") and hasattr(student, "pretrained_cfg"):
        teacher = timm_teacher(teacher, student=student)
    distillation = Distillation(
        teacher,
        loss,
        temperature=temperature,
        ce_weight=0.0,
        distill_weight=1.0,
        num_classes=getattr(student, "num_classes", None),
    )
    return _task_class()(student, criterion, distillation, (task_loss_weight, distill_loss_weight), **options)


@functools.cache
def _task_class() -> type[Any]:
    """The task's class, made when timm is first needed."""
    _timm()
    from timm.task import ClassificationTask  # pyright: ignore[reportMissingImports]

    class DistillationTask(ClassificationTask):
        def __init__(
            self,
            model: nn.Module,
            criterion: Any,
            distillation: Distillation,
            weights: tuple[float, float],
            **options: Any,
        ) -> None:
            super().__init__(model, criterion, **options)
            self.distillation = distillation
            self.task_loss_weight, self.distill_loss_weight = weights

        def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
            given = super().forward(input, target)
            kd_loss = self.distillation(input, given["output"], self._labels(target))["loss"]
            loss = self.task_loss_weight * given["loss"] + self.distill_loss_weight * kd_loss
            return {"loss": loss, "output": given["output"], "task_loss": given["loss"], "kd_loss": kd_loss}

        def _labels(self, target: Tensor) -> Tensor:
            """Class numbers; of mixed targets some that no loss looks at."""
            if not target.is_floating_point():
                return target
            soft = self.distillation.criteria[1]
            if "labels" in soft.needs:
                raise InputError(
                    f"the loss '{soft.name}' asks for the label, and a mixed target has several; take another, or "
                    "leave the mixing out"
                )
            return torch.zeros(len(target), dtype=torch.int64, device=target.device)

    return DistillationTask


def _timm() -> Any:
    try:
        import timm  # pyright: ignore[reportMissingImports]
        import timm.data  # pyright: ignore[reportMissingImports]
        import timm.task  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"timm 1.0.31 or later is needed: {error}; run pip install 'preceptor[timm]'") from error
    return timm


def _pretrained(name: str) -> nn.Module:
    timm = _timm()
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # of timm, or of the hub that has the weights
        raise InputError(f"timm cannot load '{name}': {error}; give the model itself") from error


def _config(model: nn.Module) -> dict[str, Any]:
    return _timm().data.resolve_model_data_config(model)


def _normalize(config: Mapping[str, Any]) -> dict[str, Any]:
    """How timm makes inputs of pixels, as `Data.preprocessing` says it."""
    return {"divide_by": 255.0, "mean": list(config["mean"]), "std": list(config["std"])}


def _converted(normalized: Any, size: tuple[int, ...] | None, images: Tensor) -> Tensor:
    images = images if normalized is None else normalized(images)
    if size is None or tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, list(size), mode="bilinear", antialias=True)
