"""Tokens of images that are not square are laid out as their patches lie, and of square ones as they were."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import preceptor
from losses.features.maps import SETTING
from preceptor import models
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.losses.features import AT, OFA, RKD, VID, FeatureLoss, FitNet, SimKD
from preceptor.losses.features._maps import maps
from preceptor.losses.features._projectors import TokenProjector
from preceptor.losses.features.base import as_map, patch_grid
from preceptor.tasks import DistillTask
from preceptor.teaching import SFTN
from training.toys import weights

WIDE = (32, 64)


def vit(image: tuple[int, int] = WIDE, patch: int = 8, registers: int = 0) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=image,
        patch_size=patch,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=3,
        reg_tokens=registers,
    )


class Places(nn.Module):
    """Tokens that say where they lie: the mean pixel of each patch, behind tokens of -1 of a class and registers."""

    def __init__(self, patch: int, beside: int) -> None:
        super().__init__()
        self.patch, self.beside = patch, beside
        self.tokens, self.fc = nn.Identity(), nn.Linear(1, 3)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(images[:, :1], self.patch).flatten(2).transpose(1, 2)
        beside = -torch.ones(len(images), self.beside, 1)
        return self.fc(self.tokens(torch.cat([beside, pooled], 1)).mean(1))


def batch(image: tuple[int, int] = WIDE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"input": torch.rand(4, 3, *image, generator=generator), "label": torch.arange(4) % 3}


@pytest.mark.parametrize("beside", [0, 1, 5])
@pytest.mark.parametrize(("image", "patch"), [(WIDE, 8), ((64, 32), 4), ((24, 40), 8), ((48, 32), 16), ((32, 32), 8)])
def test_a_token_comes_to_lie_where_its_patch_is(image: tuple[int, int], patch: int, beside: int) -> None:
    model, given = Places(patch, beside), batch(image)
    seen: list[Tensor] = []
    model.tokens.register_forward_hook(lambda _, __, gave: seen.append(gave))
    model(given["input"])
    laid = as_map(seen[0], image)
    assert laid.shape == (4, 1, image[0] // patch, image[1] // patch)
    for row in range(laid.shape[2]):
        for column in range(laid.shape[3]):
            part = given["input"][:, 0, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            torch.testing.assert_close(laid[:, 0, row, column], part.mean((1, 2)))


def test_squares_and_images_that_are_not_known_are_as_they_were() -> None:
    for tokens, side in ((49, 7), (50, 7), (54, 7), (196, 14), (201, 14), (1, 1)):
        assert patch_grid(tokens, None) == patch_grid(tokens, (224, 224)) == (side, side)


@pytest.mark.parametrize(
    ("tokens", "image", "grid"),
    [
        (8 * 16, (32, 64), (8, 16)),
        (2 * 4 + 5, (32, 64), (2, 4)),
        (14 * 21 + 1, (224, 336), (14, 21)),
        (16 * 9 + 5, (256, 144), (16, 9)),
        (13 * 8, (100, 60), (13, 8)),  # padded to whole patches of 8
        (14 * 18, (225, 300), (14, 18)),  # cut
    ],
)
def test_the_grid_of_an_image(tokens: int, image: tuple[int, int], grid: tuple[int, int]) -> None:
    assert patch_grid(tokens, image) == grid


def test_tokens_that_tile_no_such_image_are_refused_and_the_remedy_helps() -> None:
    with pytest.raises(InputError, match="has 53 tokens, which are no patches of an image of 32 x 64 pixels"):
        as_map(torch.zeros(2, 53, 8), WIDE)
    model, teacher = Merged(), vit()
    with pytest.raises(InputError, match=r"no patches of an image of 32 x 64 pixels, .*; name modules whose outputs"):
        DistillTask(model, teacher, FitNet(student="merge", teacher="blocks.1"), example=batch(), num_classes=3)
    for loss in (RKD(student="merge", teacher="blocks.1"), FitNet(student="conv", teacher="blocks.1")):
        assert DistillTask(model, teacher, loss, example=batch(), num_classes=3)(batch())["loss"].isfinite()


class Merged(nn.Module):
    """Tokens that no patches of the image are: 53 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.fc = nn.Conv2d(3, 8, 8, 8), nn.Linear(32, 53), nn.Linear(8, 3)
        self.merge = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.merge(self.linear(self.conv(images).flatten(2)).transpose(1, 2)).mean(1))


# -- through the task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("registers", [0, 4])
def test_a_loss_of_maps_compares_a_vit_with_a_network_place_by_place(registers: int) -> None:
    """As one computes it whose tokens are laid out by hand."""
    student, teacher, loss = models.resnet8(num_classes=3, input_shape=(3, *WIDE)), vit(registers=registers), AT()
    task = DistillTask(student, teacher, loss, example=batch(), num_classes=3, ce_weight=0.0, distill_weight=1.0)
    assert (loss.student_image, loss.teacher_image) == (WIDE, WIDE)
    caught: dict[str, Any] = {}
    handle = loss.register_forward_pre_hook(lambda _, __, given: caught.update(given), with_kwargs=True)
    value = task(batch())["loss"]
    handle.remove()
    theirs = list(caught["teacher_features"].values())
    assert all(each.shape == (4, 33 + registers, 16) for each in theirs)
    by_hand = [each[:, 1 + registers :].unflatten(1, (4, 8)).permute(0, 3, 1, 2) for each in theirs]
    named = dict(zip(caught["teacher_features"], by_hand, strict=True))
    plain = AT()
    expected = plain(
        torch.zeros(4, 3), torch.zeros(4, 3), student_features=caught["student_features"], teacher_features=named
    )
    torch.testing.assert_close(value, expected.mean())


@pytest.mark.parametrize("loss", [FitNet(), VID(), AT()], ids=lambda loss: type(loss).__name__)
def test_a_vit_teaches_a_smaller_one(loss: FeatureLoss) -> None:
    student, teacher = vit(patch=16), vit()
    task = DistillTask(student, teacher, loss, example=batch(), num_classes=3)
    task(batch())["loss"].backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in student.parameters())
    shapes = {maps(torch.zeros(1, n, 16), WIDE).shape[2:] for n in (9, 33)}
    assert shapes == {(2, 4), (4, 8)}


def test_simkd_and_sftn_read_the_grid() -> None:
    loss = SimKD(student="projector", teacher="norm")
    loss.student_image = loss.teacher_image = WIDE
    tokens, wide = torch.rand(2, 33, 6), torch.rand(2, 6, 4, 8)
    laid = tokens[:, 1:].unflatten(1, (4, 8)).permute(0, 3, 1, 2)
    value = loss(torch.zeros(2, 3), torch.zeros(2, 3), student_features={"s": wide}, teacher_features={"t": tokens})
    torch.testing.assert_close(value, (wide - laid).square().mean((1, 2, 3)))
    objective: Any = SFTN(student="resnet8")
    objective.student_image = WIDE
    objective.build({"a": tokens, "b": wide}, {}, SETTING)
    seen: list[Any] = []
    objective.branches[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    objective(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), student_features={"a": tokens, "b": wide})
    assert torch.equal(seen[0], laid)


def test_ofa_merges_patches_that_are_neighbours() -> None:
    """Four by four pixels each of a token of 16 x 32 patches: what is merged is the mean of a square of them."""
    projector = TokenProjector((1, 16 * 32 + 1, 3), 3, 1, 5, (64, 128))
    assert projector.extra == 1
    [merge] = projector.merge.children()
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
    tokens = torch.stack([rows, columns, rows * 32 + columns], -1).reshape(1, -1, 3)
    seen: list[Tensor] = []
    merge.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[union-attr]
    merge(tokens)
    four = seen[0].reshape(8, 16, 4, 3)
    assert torch.equal(four[..., 0].amin(-1), 2 * torch.arange(8.0)[:, None].expand(8, 16))
    assert torch.equal(four[..., 1].amin(-1), 2 * torch.arange(16.0).expand(8, 16))
    assert (four[..., :2].amax(2) - four[..., :2].amin(2) == 1).all()
    task = DistillTask(vit(patch=2), vit(), OFA(), example=batch(), num_classes=3)
    assert task(batch())["loss"].isfinite()


def test_a_run_by_name_and_its_record(tmp_path: Path) -> None:
    inputs = torch.rand(40, 3, *WIDE, generator=torch.Generator().manual_seed(0))
    data = Data(ArrayDataset(inputs, torch.arange(40) % 3), None, ("a", "b", "c"))
    split = {"train": 24, "heldout": 8, "test": 8}
    recipe: dict[str, Any] = {"model": "resnet8", "split": split, "training": {"epochs": 1, "device": "cpu"}}
    preceptor.distill({**recipe, "loss": "AT"}, tmp_path / "live", teacher=vit(), data=data)
    preceptor.record(
        vit(), tmp_path / "record", data=data, recipe={"split": split}, features="stages", features_dtype="float32"
    )
    preceptor.distill({**recipe, "loss": "AT"}, tmp_path / "told", teacher=tmp_path / "record", data=data)
    live, told = (weights(tmp_path / run) for run in ("live", "told"))
    for name, tensor in live.items():
        torch.testing.assert_close(told[name], tensor, rtol=1e-3, atol=1e-4)
