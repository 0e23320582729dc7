"""timm: teachers see images as they were trained on, and a task of timm's has our losses."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from torch.nn import functional as F

from integrations.toys import kd_formula
from preceptor.errors import InputError
from preceptor.integrations.timm import distillation_task, timm_teacher

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def network(seed: int = 0, *, classes: int = 5, **overlay: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_width": 8, "num_classes": classes}
    return timm.create_model("resnet10t", pretrained=False, pretrained_cfg_overlay=overlay, **sizes)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalized(pixels: Tensor, mean: Any, std: Any) -> Tensor:
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("by_model", [True, False])
def test_a_teacher_is_given_images_normalised_as_its_own(by_model: bool, pixels: Tensor) -> None:
    model = network(1, **CLIP).eval()
    student = network(0, **IMAGENET) if by_model else IMAGENET
    found = timm_teacher(model, student=student)({"input": normalized(pixels, **IMAGENET)})
    torch.testing.assert_close(found, model(normalized(pixels, **CLIP)), rtol=1e-5, atol=1e-5)
    alike = timm_teacher(model, student=network(0, **CLIP))({"input": normalized(pixels, **CLIP)})
    assert torch.equal(alike, model(normalized(pixels, **CLIP)))


def test_a_teacher_is_given_images_of_its_size_where_it_needs_them(pixels: Tensor) -> None:
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 5, "img_size": 64, "patch_size": 16}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **sizes).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    images = normalized(pixels, (0.5,) * 3, (0.5,) * 3)
    expected = model(F.interpolate(images, [64, 64], mode="bilinear", antialias=True))
    assert torch.equal(timm_teacher(model, student=model)({"input": images}), expected)
    large = F.interpolate(images, [64, 64])
    assert torch.equal(timm_teacher(model, student=model)({"input": large}), model(large))


def test_the_task_has_the_gradient_of_the_formula(pixels: Tensor) -> None:
    student, teacher, target = network(0, **IMAGENET), network(1, **CLIP), torch.tensor([0, 1, 2, 3])
    reference = copy.deepcopy(student)
    images = normalized(pixels, **IMAGENET)
    task = distillation_task(
        student, teacher, nn.CrossEntropyLoss(), temperature=4.0, task_loss_weight=0.3, distill_loss_weight=0.7
    )
    found = task(images, target)
    found["loss"].backward()
    logits = reference(images)
    with torch.no_grad():
        answer = copy.deepcopy(teacher).eval()(normalized(pixels, **CLIP))
    task_loss, kd_loss = F.cross_entropy(logits, target), kd_formula(logits, answer, 4.0).mean()
    (0.3 * task_loss + 0.7 * kd_loss).backward()
    torch.testing.assert_close(found["task_loss"], task_loss)
    torch.testing.assert_close(found["kd_loss"], kd_loss)
    torch.testing.assert_close(found["output"], logits)
    for mine, plain in zip(student.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_kd_is_timms_own_loss(pixels: Tensor) -> None:
    images, target = normalized(pixels, **IMAGENET), torch.tensor([0, 1, 2, 3])
    weights: Any = {"task_loss_weight": 0.3, "distill_loss_weight": 0.7, "temperature": 3.0, "verbose": False}
    ours = distillation_task(network(0, **IMAGENET), network(1, **CLIP), **weights).eval()(images, target)
    theirs = LogitDistillationTask(network(0, **IMAGENET), network(1, **CLIP), **weights).eval()(images, target)
    for name in ("loss", "kd_loss", "task_loss"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_the_teacher_is_no_part_of_the_task(pixels: Tensor) -> None:
    student, teacher = network(0, **IMAGENET), network(1, **CLIP).train()
    before = copy.deepcopy(teacher.state_dict())
    task = distillation_task(student, teacher, loss="wttm", temperature=4.0).train()
    assert len(list(task.parameters())) == len(list(student.parameters()))
    assert task.get_checkpoint_state()["state_dict"].keys() == student.state_dict().keys()
    task.setup_ema()
    task(normalized(pixels, **IMAGENET), torch.tensor([0, 1, 2, 3]))["loss"].backward()
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())
    assert all(each.grad is None for each in teacher.parameters())
    task.compile(backend="eager")
    assert task(normalized(pixels, **IMAGENET), torch.tensor([0, 1, 2, 3]))["kd_loss"].isfinite()
    assert task.get_checkpoint_state()["state_dict"].keys() == student.state_dict().keys()
    torch.compiler.reset()


def test_mixed_targets_are_the_criterions_business(pixels: Tensor) -> None:
    mixed = torch.full((4, 5), 0.2)
    images = normalized(pixels, **IMAGENET)
    found = distillation_task(network(0), network(1), nn.CrossEntropyLoss(), loss="ttm")(images, mixed)
    torch.testing.assert_close(found["task_loss"], F.cross_entropy(found["output"], mixed))
    with pytest.raises(InputError, match="the loss 'dkd' asks for the label, and a mixed target has several"):
        distillation_task(network(0), network(1), loss="dkd")(images, mixed)


def test_what_cannot_be_is_said_in_one_sentence(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the model of timm has no head, num_classes=0"):
        timm_teacher(network(classes=0))
    with pytest.raises(InputError, match="timm cannot load 'resnet_no'"):
        timm_teacher("resnet_no")
    with pytest.raises(InputError, match="the teacher has 7 classes and the student 5"):
        distillation_task(network(0), network(1, classes=7))(pixels, torch.zeros(4, dtype=torch.int64))
    for weight in (-1.0, float("nan")):
        with pytest.raises(InputError, match=f"task_loss_weight is {weight}; give a number of at least 0"):
            distillation_task(network(0), network(1), task_loss_weight=weight)
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(InputError, match=r"run pip install 'preceptor\[timm\]'"):
        timm_teacher(network())
