"""Where the channels of maps are: known from the modules, not guessed from lengths of axes, and first in every loss."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor import models
from preceptor.errors import InputError
from preceptor.losses.features import AT, FeatureLoss, FitNet
from preceptor.records import Record
from preceptor.tasks import DistillTask
from preceptor.tasks.looking import Look
from training.toys import assert_close, weights

WIDE = (3, 16, 24)


def images(*shape: int, size: int = 4) -> Tensor:
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(0))


def looked(model: nn.Module, *shape: int) -> Look:
    inputs = images(*shape, size=2)
    return Look(model.eval(), lambda: model(inputs), "model")


def channels(model: nn.Module, *shape: int) -> dict[str, str | None]:
    look = looked(model, *shape)
    return {each.name: look.layouts.of(each.gave) for each in look.seen}


class Seen(FeatureLoss):
    """Keeps what it is shown."""

    def build(self, student: Any, teacher: Any, setting: Any) -> None:
        self.built = (dict(student), dict(teacher))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Any, teacher_features: Any):
        self.shown = (dict(student_features), dict(teacher_features))
        return (student_logits - teacher_logits).square().mean(-1)


def shown(student: nn.Module, teacher: nn.Module, loss: FeatureLoss, inputs: Tensor) -> DistillTask:
    made = DistillTask(student, teacher, loss, example={"input": inputs[:2]}, num_samples=4, num_classes=3)
    made({"input": inputs, "label": torch.arange(len(inputs)) % 3})["loss"].backward()
    return made


class ToLast(nn.Module):
    """Maps as Swin's blocks have them: a projection of channels, and a block that adds to what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, width, 1), nn.LayerNorm(width)
        self.mlp, self.act, self.fc = nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3)
        self.block = _Residual(self.norm, self.mlp)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.block(self.embed(x).permute(0, 2, 3, 1))).mean((1, 2)))


class _Residual(nn.Module):
    def __init__(self, norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(norm, mlp)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


# -- what is known -----------------------------------------------------------------------------------------------------


def test_maps_as_many_channels_as_rows_are_not_turned() -> None:
    """(B, 16, 16, 24) has two equal axes, of which one is the channels."""
    student = models.resnet8(num_classes=3, input_shape=WIDE)
    assert looked(student, *WIDE).seen[0].gave.shape[1:] == (16, 16, 24)  # type: ignore[union-attr]
    loss = FitNet(student="layer1", teacher="layer2")
    shown(student, models.resnet8(num_classes=3, input_shape=WIDE), loss, images(*WIDE))
    assert [each.shape[1] for each in loss.parameters() if each.ndim == 4] == [16]  # of its regressor
    assert set(channels(student, *WIDE).values()) == {"first", None}


def test_the_value_is_that_of_maps_with_their_channels_first() -> None:
    def attention(feature: Tensor) -> Tensor:  # Zagoruyko and Komodakis: the channels' mean square, normalised
        return nn.functional.normalize(feature.square().mean(1).flatten(1))

    torch.manual_seed(0)
    pair = [models.resnet8(num_classes=3, input_shape=WIDE).eval() for _ in "st"]
    inputs = images(*WIDE)
    made = DistillTask(*pair, AT(student="layer1"), example={"input": inputs[:2]}, num_samples=4, num_classes=3)
    value = made({"input": inputs, "label": torch.arange(4) % 3})["distill"]
    ours, theirs = (attention(each.layer1(each.bn1(each.conv1(inputs)).relu())) for each in pair)
    torch.testing.assert_close(value, (ours - theirs).square().mean(-1).mean())


@pytest.mark.parametrize("shape", [(3, 8, 12), (3, 8, 8), (3, 12, 8)])
@pytest.mark.parametrize("width", [8, 12, 5])
def test_channels_last_maps_are_turned_whatever_their_lengths(shape: tuple[int, int, int], width: int) -> None:
    torch.manual_seed(0)
    model, inputs = ToLast(width), images(*shape)
    found = channels(model, *shape)
    assert found["embed"] == "first"
    assert {found[name] for name in ("norm", "mlp", "block", "act")} == {"last"}
    loss = Seen(student=["embed", "block"], teacher=["block", "act:input"])
    shown(model, model, loss, inputs)
    maps = model.embed(inputs)
    block = maps + model.mlp(model.norm(maps.movedim(1, -1))).movedim(-1, 1)
    for of_student, of_teacher in (loss.shown, [{n: e[:2] for n, e in each.items()} for each in loss.shown]):
        torch.testing.assert_close(of_student["embed"], maps[: len(of_student["embed"])])
        torch.testing.assert_close(of_student["block"], block[: len(of_student["block"])])
        torch.testing.assert_close(of_teacher["block"], of_teacher["act:input"])
        torch.testing.assert_close(of_teacher["block"], block[: len(of_teacher["block"])])
    assert loss.built[0]["block"].shape == loss.built[1]["act:input"].shape == (2, width, *shape[1:])


def test_swin_of_torchvision() -> None:
    vision = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = vision.SwinTransformer([2, 2], 8, [1, 1], [1, 1], [2, 2], num_classes=3)
    found = channels(model, 3, 16, 24)
    assert [found[name] for name in ("features.0.0", "features.0", "features.1", "features.2", "norm")] == [
        "first", "last", "last", "last", "last",
    ]  # fmt: skip
    loss = Seen(student="features.1", teacher="layer1")
    shown(model, models.resnet8(num_classes=3, input_shape=(3, 16, 24)), loss, images(3, 16, 24))
    assert loss.shown[0]["features.1"].shape == (4, 8, 8, 12)


def test_convnext_whose_maps_are_cubes() -> None:
    """Within a block of ConvNeXt maps are turned there and back, and (8, 8, 8) shows nothing of it."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3)
    found = channels(model, 3, 32, 32)
    assert found["stages.0"] == found["stages.0.blocks.0"] == found["stem"] == "first"
    vision = pytest.importorskip("torchvision").models.convnext
    setting = [vision.CNBlockConfig(8, 8, 1), vision.CNBlockConfig(8, None, 1)]
    found = channels(vision.ConvNeXt(setting, num_classes=3), 3, 32, 32)
    assert found["features.1.0.block.3"] == "last"  # the first linear layer of a block
    assert found["features.1.0"] == found["features.1"] == found["features.0"] == "first"


# -- what is not -------------------------------------------------------------------------------------------------------


class Strange(nn.Module):
    """Makes maps of no module that would tell their axes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 3, generator=torch.Generator().manual_seed(0)))
        self.maps, self.fc = nn.Identity(), nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(torch.einsum("oc,bchw->bohw", self.weight, x)).mean((-2, -1)))


def test_what_the_shape_shows_is_read_off_it() -> None:
    assert channels(Strange(5), 3, 8, 8)["maps"] == channels(Strange(8), 3, 8, 12)["maps"] == "first"


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_cannot_be_told_is_refused(side: str) -> None:
    strange, plain = Strange(8), models.resnet8(num_classes=3, input_shape=(3, 8, 8))
    pair = (strange, plain) if side == "student" else (plain, strange)
    taps = ("maps", "layer1") if side == "student" else ("layer1", "maps")
    with pytest.raises(InputError, match=rf"'maps' of the {side} has shape \(2, 8, 8, 8\), of which it cannot be told"):
        shown(*pair, FitNet(student=taps[0], teacher=taps[1]), images(3, 8, 8))
    shown(*pair, FitNet(student="fc", teacher="fc"), images(3, 8, 8))  # elsewhere nothing is amiss


# -- teachers on record, and students side by side ---------------------------------------------------------------------

DATA: dict[str, Any] = {"data": "digits", "split": {"train": 150, "heldout": 50, "test": 100}}


class OfDigits(ToLast):
    """On digits, (1, 8, 8)."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__(width)
        self.embed, self.fc = nn.Conv2d(1, width, 1), nn.Linear(width, num_classes)


def test_a_record_stores_the_channels_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = OfDigits(width=6)
    preceptor.record(teacher, tmp_path, features=["block"], features_dtype="float32", device="cpu", **DATA)
    record = Record(tmp_path)
    assert record.manifest.identity.features == {"block": "block as float32, channels first"}
    assert record.features("block", record.ids[:2]).shape == (2, 6, 8, 8)
    loss: dict[str, Any] = {"name": "FitNet", "student": "block", "teacher": "block"}
    preceptor.distill(model=OfDigits, teacher=tmp_path, loss=loss, epochs=1, device="cpu", **DATA)


def test_an_older_record_of_maps_with_two_equal_axes_is_refused() -> None:
    class Remembered:
        feature_names = ("a", "b")
        features_described: ClassVar[dict[str, str]] = {"a": "a as float32", "b": "b as float32, channels first"}

        def __call__(self, batch: Any) -> Tensor:
            return torch.zeros(len(batch["input"]), 3)

        def features(self, names: Any, batch: Any) -> dict[str, Tensor]:
            return {name: torch.zeros(len(batch["input"]), 4, 4, 6) for name in names}

    student = models.resnet8(num_classes=3, input_shape=(3, 8, 8))
    loss = FitNet(student="layer1", teacher="b")
    shown(student, Remembered(), loss, images(3, 8, 8))  # type: ignore[arg-type]
    assert {each.shape[0] for each in loss.parameters()} == {4}  # its regressor's, to the channels of the teacher
    with pytest.raises(InputError, match=r"'a' of shape \(2, 4, 4, 6\) are, .* --features a\)"):
        shown(student, Remembered(), FitNet(student="layer1", teacher="a"), images(3, 8, 8))  # type: ignore[arg-type]


def test_students_side_by_side_see_what_one_alone_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = OfDigits(width=6)
    more: dict[str, Any] = {"model": OfDigits, "epochs": 1, "device": "cpu", **DATA}
    loss: dict[str, Any] = {"name": "FitNet", "student": "block", "teacher": "block"}
    preceptor.distill(None, tmp_path / "alone", teacher=teacher, loss=loss, **more)
    students = {"one": {"loss": loss}, "two": {"loss": "kd"}}
    preceptor.distill_together(None, students, tmp_path, teacher=teacher, **more)
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "alone"), 0)
