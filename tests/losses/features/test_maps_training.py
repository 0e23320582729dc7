"""Losses of maps in training: through distill, by name, on our networks and between unlike ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preceptor import losses, models
from preceptor.recipe.published import published_of
from preceptor.tasks import DistillTask
from preceptor.training import distill
from training.toys import distill_recipe, metrics, snapshot, stopped_at, weights

SMALL = {"num_classes": 10, "input_shape": (1, 8, 8)}
OPTIONS: dict[str, dict[str, int]] = {
    "AB": {"init_epochs": 1},
    "FSP": {"init_epochs": 1},
    "FT": {"init_epochs": 1},
    "ReviewKD": {"warmup_epochs": 1},
}
WEIGHTS = {
    "AB": 1.0,
    "AT": 1000.0,
    "CWD": 50.0,
    "FSP": 1.0,
    "FT": 200.0,
    "FitNet": 100.0,
    "MGD": 7e-5,
    "NST": 50.0,
    "OFD": 1e-3,
    "PKD": 6.0,
    "ReviewKD": 5.0,
}


def network(name: str = "resnet8") -> nn.Module:
    torch.manual_seed(1)
    return getattr(models, name)(**SMALL)


def recipe(loss: str, *overrides: str, model: str = "resnet8"):
    options = [f"loss.{name}={value}" for name, value in OPTIONS.get(loss, {}).items()]
    few = ["split.train=64", "split.heldout=10", "split.test=10", "training.batch_size=32"]
    return distill_recipe(f"model={model}", f"loss.name={loss}", *options, *few, "optimizer.lr=0.02", *overrides)


def falls(loss: nn.Module, teacher: nn.Module) -> list[float]:
    """The loss to the teacher on one batch, before and after some steps of a student."""
    torch.manual_seed(2)
    batch = {"input": torch.randn(16, 1, 8, 8), "label": torch.arange(16) % 10}
    student = network()
    task = DistillTask(student, teacher, loss, ce_weight=0.0, distill_weight=1.0, example=batch)
    task.start_epoch(1, 2)  # past the warm-up; FT's second phase
    loss.alone = isinstance(loss, losses.features.AB | losses.features.FSP)
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 0.01)
    found: list[float] = []
    for _ in range(12):
        optimizer.zero_grad()
        value = task(batch)["loss"]
        value.backward()
        optimizer.step()
        found.append(value.item())
    return [found[0], found[-1]]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_student_learns_from_every_loss(name: str) -> None:
    first, last = falls(getattr(losses.features, name)(**OPTIONS.get(name, {})), network("resnet14"))
    assert 0 < last < 0.9 * first


@pytest.mark.parametrize("name", ["FitNet", "PKD", "MGD", "AT"])
def test_a_vision_transformer_teaches_a_network_of_convolutions(name: str) -> None:
    timm: Any = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=24, depth=4, num_heads=2, num_classes=10
    )
    first, last = falls(getattr(losses.features, name)(), vit)
    assert 0 < last < 0.95 * first


@pytest.mark.parametrize("name", ["AB", "FT", "MGD", "OFD", "ReviewKD"])
def test_a_run_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Stopped in the second epoch: phases, draws, parts and running statistics are as they were."""
    distill(recipe(name), tmp_path / "whole", teacher=network())
    assert set(weights(tmp_path / "whole")) == set(network().state_dict())  # none of the loss's parts
    with stopped_at(3):
        distill(recipe(name), tmp_path / "run", teacher=network())
    distill(recipe(name), tmp_path / "run", teacher=network())
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")
    found = [line["train"]["distill"] for line in metrics(tmp_path / "run")]
    assert [value > 0 for value in found] == [name != "ReviewKD", name != "AB"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weights_are_the_published_ones(name: str) -> None:
    assert published_of(name, "wrn_16_2") == {"ce_weight": 1.0, "distill_weight": WEIGHTS[name]}


def test_the_weights_of_some_students() -> None:
    found = {student: published_of("ReviewKD", student) or {} for student in ("resnet20", "resnet32", "shufflenet_v2")}
    weights = {student: weights["distill_weight"] for student, weights in found.items()}
    assert weights == {"resnet20": 0.6, "resnet32": 1.0, "shufflenet_v2": 8.0}


def test_the_stem_may_be_a_layer_of_fsp() -> None:
    batch = {"input": torch.randn(4, 1, 8, 8), "label": torch.arange(4)}
    loss = losses.features.FSP(student=["layer1:input", "stages"], init_epochs=0)
    value = DistillTask(network(), network("resnet14"), loss, example=batch)(batch)["loss"]
    assert loss.student_taps == loss.teacher_taps == ("layer1:input", "layer1", "layer2", "layer3")
    assert value > 0


@pytest.mark.parametrize(("name", "learns"), [("AB", True), ("FSP", True), ("FT", False)])
def test_who_learns_while_a_loss_stands_alone(name: str, learns: bool) -> None:
    """The layers up to the last that is looked into, and not the classifier; of FT no part of the student."""
    batch = {"input": torch.randn(8, 1, 8, 8), "label": torch.arange(8)}
    student = network()
    loss = getattr(losses.features, name)(init_epochs=1)
    task = DistillTask(student, network("resnet14"), loss, example=batch)
    task.start_epoch(0, 2)
    task(batch)["loss"].backward()
    touched = {name.partition(".")[0] for name, x in student.named_parameters() if x.grad is not None and x.grad.any()}
    assert touched == ({"conv1", "bn1", "layer1", "layer2", "layer3"} if learns else set())
    task.start_epoch(1, 2)
    task(batch)["loss"].backward()
    assert student.get_parameter("fc.weight").grad is not None


@pytest.mark.parametrize(
    ("name", "student"),
    [("FitNet", "shufflenet_v1"), ("OFD", "vgg8"), ("ReviewKD", "mobilenet_v2"), ("AB", "wrn_16_1")],
)
def test_other_families(name: str, student: str) -> None:
    batch = {"input": torch.randn(4, 1, 8, 8), "label": torch.arange(4)}
    loss = getattr(losses.features, name)()
    model = network(student)
    task = DistillTask(model, network("wrn_16_2"), loss, distill_weight=1.0, example=batch)
    task(batch)["loss"].backward()
    assert all(x.grad.isfinite().all() for x in model.parameters() if x.grad is not None)
    assert any(x.grad is not None and x.grad.any() for x in loss.parameters())
    if name == "OFD":
        norms = [task.teacher.model.get_submodule(each) for each in ("layer2.0.bn1", "layer3.0.bn1", "bn")]
        for level, norm in enumerate(norms[-len(loss.connectors) :]):
            torch.testing.assert_close(loss.get_buffer(f"margin{level}"), losses.features.ofd.margin_of_norm(norm))
