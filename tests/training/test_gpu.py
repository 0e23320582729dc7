"""What only a GPU can show: data that live there, losses nobody waits for, compiled and captured steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.data.dataset import ArrayDataset, Data, Indexed
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError
from preceptor.models import resnet8
from preceptor.training.data.resident import resident
from training.toys import snapshot, stopped_at, weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")]

CUDA = torch.device("cuda", 0)
NORMALIZE = Normalize(255.0, (0.5,), (0.25,))
RECIPE: dict[str, Any] = {
    "model": "resnet8",
    "augmentation": "crop_flip",
    "split": {"heldout": 40},
    "optimizer": {"lr": 0.005},
    "training": {"epochs": 2, "batch_size": 32},  # eleven whole steps and one of 8 samples
}


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (400, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Data(ArrayDataset(pixels, torch.arange(400) % 5, transform=NORMALIZE), None, tuple("abcde"))


def student(folder: Path | None = None, teacher: Any = None, *, loss: Any = "wttm", **training: Any) -> Any:
    recipe = RECIPE | {"training": RECIPE["training"] | training}
    given = resnet8(num_classes=5) if teacher is None else teacher
    return preceptor.distill(recipe, folder, teacher=given, data=data(), loss=loss)


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return resnet8(num_classes=5)


def assert_near(one: Path, other: Path, tolerance: float) -> None:
    """Weights of two runs, relative to the largest."""
    for name, tensor in weights(other).items():
        if tensor.is_floating_point():
            assert (weights(one)[name] - tensor).abs().max() <= tolerance * tensor.abs().max().clamp(min=1.0), name


def test_data_that_live_on_the_device_give_the_same_batches() -> None:
    here = Indexed(data().train, num_classes=5)
    there = resident(here, CUDA)
    rows = torch.tensor([3, 1, 399])
    one, other = here[rows], there[rows.to(CUDA)]
    assert other["input"].device == CUDA
    for name in one:
        torch.testing.assert_close(other[name].cpu(), one[name])


def test_a_gpu_trains_as_a_cpu_does(teacher: nn.Module, tmp_path: Path) -> None:
    student(tmp_path / "gpu", teacher)
    student(tmp_path / "cpu", teacher, device="cpu")
    assert_near(tmp_path / "gpu", tmp_path / "cpu", 0.05)


@pytest.mark.parametrize("loss", ["wttm", {"name": "ptloss", "coefficients": [0.5, 0.25]}, "dkd", "dist"])
def test_a_compiled_and_captured_run_is_the_same_to_rounding(loss: Any, teacher: nn.Module, tmp_path: Path) -> None:
    student(tmp_path / "plain", teacher, loss=loss)
    result = student(tmp_path / "fast", teacher, loss=loss, compile="auto")
    assert not [each for each in result["notes"] if "captured" in each or "compiled" in each]
    assert_near(tmp_path / "fast", tmp_path / "plain", 0.05)


@pytest.mark.parametrize("compiled", [False, "auto"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(teacher: nn.Module, compiled: Any, tmp_path: Path) -> None:
    torch.backends.cudnn.deterministic = True
    try:
        student(tmp_path / "whole", teacher, compile=compiled)
        with stopped_at(14):
            student(tmp_path / "stopped", teacher, compile=compiled)
        student(tmp_path / "stopped", teacher, compile=compiled)
    finally:
        torch.backends.cudnn.deterministic = False
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")


def test_students_together_are_near_to_each_alone(teacher: nn.Module, tmp_path: Path) -> None:
    recipe = RECIPE | {"training": RECIPE["training"] | {"compile": "auto"}}
    company = {"kd": {"loss": "kd"}, "ttm": {"loss": "ttm"}}
    preceptor.distill_together(recipe, company, tmp_path, teacher=teacher, data=data())
    for name in company:
        preceptor.distill(recipe, tmp_path / f"{name}-alone", teacher=teacher, data=data(), loss=name)
        assert_near(tmp_path / name, tmp_path / f"{name}-alone", 0.05)


class Fragile(nn.Module):
    """NaN for one training sample from the second epoch on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, num_classes)
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += self.training
        logits = self.linear(x.flatten(1))
        poisoned = (x.flatten(1) > 100).any(-1, keepdim=True)
        return torch.where(poisoned & (self.asked > 16), torch.nan, logits)


@pytest.mark.parametrize("compiled", [False, "auto"])
def test_a_loss_that_is_not_finite_is_found_though_nobody_waits(compiled: Any) -> None:
    poisoned = data()
    poisoned.train.inputs = poisoned.train.inputs.float()  # pyright: ignore
    poisoned.train.inputs[20] = 1e5  # pyright: ignore
    with pytest.raises(InputError, match="the logits for sample 20 are not finite in epoch 1"):
        preceptor.teach(RECIPE | {"model": None, "augmentation": None}, data=poisoned, model=Fragile, compile=compiled)


class Chancy(nn.Module):
    """A model that draws on the host: captured, it would draw the same for ever."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))
        return logits * float(torch.rand(())) if self.training else logits


class Looking(Chancy):
    """A model that waits for the device, which a graph cannot."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))
        return logits if float(logits.detach().abs().max()) > -1 else -logits


@pytest.mark.parametrize("model", [Chancy, Looking])
def test_what_cannot_be_captured_is_said_and_trained(model: Any, tmp_path: Path) -> None:
    result = preceptor.teach(RECIPE | {"model": None}, tmp_path / "run", data=data(), model=model, compile="auto")
    assert any("not captured" in each for each in result["notes"])
    assert (tmp_path / "run" / "result.json").exists()
