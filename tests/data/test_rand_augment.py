"""RandAugment: torchvision's own under the same seed, on the pixels that inputs were made of, and a pure function."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

import preceptor
from preceptor.data.augment import compose, crop_flip, cutout, made_for, rand_augment
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe, parse
from preceptor.training.data.batches import Batches
from preceptor.training.resolve import distill_job, teach_job
from training.toys import snapshot, stopped_at

CIFAR = Normalize(divide_by=255.0, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
RECIPE: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [4]},
    "split": {"train": 30, "heldout": 10, "test": 8},
    "augmentation": ["crop_flip", "rand_augment", {"name": "cutout", "size": 3}],
    "training": {"epochs": 2, "batch_size": 8, "device": "cpu"},
}


def pictures(count: int = 48, channels: int = 3, side: int = 12) -> Tensor:
    return torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0)).byte()


def data(normalize: Normalize = CIFAR) -> Data:
    images = pictures()
    arrays = ArrayDataset(images, torch.arange(len(images)) % 3, transform=normalize)
    return Data(arrays, None, ("a", "b", "c"), normalize.as_json())


def by_torchvision(images: Tensor, rows: Tensor, *, of: Any) -> Tensor:
    """torchvision's own, one image after the other, each under the seed that its row says."""
    found = []
    for image, (high, low) in zip(images, rows.tolist(), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(high * 2**24 + low)
            found.append(of(image))
    return torch.stack(found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_ops": 3, "magnitude": 14, "interpolation": "bilinear", "fill": 7.0},
        {"num_ops": 1, "magnitude": 4, "num_magnitude_bins": 11, "fill": 128},
    ],
)
def test_it_is_torchvision_s_own(options: dict[str, Any], channels: int) -> None:
    images, augmentation = pictures(channels=channels), rand_augment(**options)
    rows = augmentation.draw(len(images), torch.Generator().manual_seed(5))
    changed = augmentation.apply(images, rows)
    more = options | ({"interpolation": v2.InterpolationMode(options.get("interpolation", "nearest"))})
    assert torch.equal(changed, by_torchvision(images, rows, of=v2.RandAugment(**more)))
    assert (changed != images).flatten(1).any(1).float().mean() > 0.5


def test_a_list_fills_each_channel() -> None:
    images, augmentation = pictures(), rand_augment(num_ops=4, fill=[9, 99, 199])
    rows = augmentation.draw(len(images), torch.Generator())
    assert torch.equal(
        augmentation.apply(images, rows), by_torchvision(images, rows, of=v2.RandAugment(4, fill=[9, 99, 199]))
    )


@pytest.mark.parametrize("normalize", [CIFAR, Normalize(255.0), Normalize(255.0, (0.286,), (0.353,))])
def test_normalised_inputs_are_changed_as_their_pixels(normalize: Normalize) -> None:
    """Every value of a pixel comes back, so that it is the same to the last bit."""
    images = torch.cat([pictures(20, side=16), torch.arange(256).byte().view(1, 1, 16, 16).expand(1, 3, 16, 16)])
    augmentation: Any = made_for(rand_augment(), data(normalize))
    rows = augmentation.draw(len(images), torch.Generator().manual_seed(1))
    expected = normalize(by_torchvision(images, rows, of=v2.RandAugment()))
    assert torch.equal(augmentation.apply(normalize(images), rows), expected)
    given = rand_augment(mean=normalize.mean, std=normalize.std)
    assert torch.equal(given.apply(normalize(images), rows), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_layout_stay(dtype: torch.dtype, layout: torch.memory_format) -> None:
    inputs = CIFAR(pictures(6)).to(dtype).contiguous(memory_format=layout)
    augmentation = rand_augment(mean=CIFAR.mean, std=CIFAR.std)
    changed = augmentation.apply(inputs, augmentation.draw(6, torch.Generator()))
    assert (changed.dtype, changed.stride()) == (dtype, inputs.stride())


def test_a_sample_depends_on_its_row_alone_and_the_global_generator_on_nothing() -> None:
    augmentation: Any = compose(steps=[crop_flip(), rand_augment(mean=0.5, std=0.25), cutout()])
    inputs = (pictures(9) / 255.0 - 0.5) / 0.25
    rows = augmentation.draw(9, torch.Generator().manual_seed(2))
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    whole = augmentation.apply(inputs, rows)
    assert torch.equal(torch.rand(3), expected)
    order = torch.randperm(9)
    assert torch.equal(augmentation.apply(inputs[order], rows[order]), whole[order])
    assert torch.equal(augmentation.apply(inputs[3:5], rows[3:5]), whole[3:5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmentation.apply(inputs, rows), whole)
    assert torch.equal(rows, augmentation.draw(9, torch.Generator().manual_seed(2)))


def test_seeds_are_exact_beside_the_rows_of_others() -> None:
    """A composition's rows are float32."""
    steps = [crop_flip(), rand_augment(mean=CIFAR.mean, std=CIFAR.std)]
    both, generator, inputs = compose(steps=steps), torch.Generator().manual_seed(7), CIFAR(pictures(20))
    rows = both.draw(20, torch.Generator().manual_seed(7))
    cropped = steps[0].apply(inputs, steps[0].draw(20, generator))
    seeds = steps[1].draw(20, generator)
    assert seeds.max() > 2**23
    assert torch.equal(both.apply(inputs, rows), steps[1].apply(cropped, seeds))


def epochs(batch_size: int, num_workers: int = 0) -> list[dict[int, Tensor]]:
    """What a run shows of each sample in its epochs."""
    training = {**RECIPE["training"], "batch_size": batch_size, "num_workers": num_workers}
    job = teach_job(TeachRecipe.model_validate({**RECIPE, "training": training}), None, data=data())
    assert isinstance(job.batches, Batches)
    found = []
    for epoch in range(2):
        steps = [batch for [batch] in job.batches.epoch(epoch)]
        found.append({i: x for batch in steps for i, x in zip(batch["index"].tolist(), batch["input"], strict=True)})
    return found


def test_batch_size_and_workers_do_not_matter() -> None:
    one, other = epochs(8), epochs(5, num_workers=1)
    for epoch in range(2):
        assert one[epoch].keys() == other[epoch].keys()
        assert all(torch.equal(x, other[epoch][i]) for i, x in one[epoch].items())
    assert any(not torch.equal(x, one[1][i]) for i, x in one[0].items())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    recipe = {**RECIPE, "training": {**RECIPE["training"], "checkpoint_every": 1}}
    preceptor.teach(recipe, tmp_path / "whole", data=data())
    for step in (2, 6):
        with stopped_at(step):
            preceptor.teach(recipe, tmp_path / "stopped", data=data())
    preceptor.teach(recipe, tmp_path / "stopped", data=data())
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")


def test_a_recording_shows_what_a_live_run_would(tmp_path: Path) -> None:
    shown: dict[tuple[int, int], Tensor] = {}

    def teacher(batch: Any) -> Tensor:
        if "view" in batch:
            places = zip(batch["view"].tolist(), batch["index"].tolist(), strict=True)
            shown.update(zip(places, batch["input"].clone(), strict=True))
        return batch["input"].flatten(1)[:, :3]

    preceptor.record(teacher, tmp_path / "record", data=data(), recipe=RECIPE, views=2)
    student = parse(DistillRecipe, {**RECIPE, "teacher": str(tmp_path / "record"), "seed": 3, "streams": {"split": 0}})
    live, replayed = (
        distill_job(made, None, data=data(), **more)
        for made, more in ((parse(DistillRecipe, RECIPE), {"teacher": teacher}), (student, {}))
    )
    assert len(shown) == 2 * 30
    for epoch in range(2):
        for job in (live, replayed):
            assert isinstance(job.batches, Batches)
            for [batch] in job.batches.epoch(epoch):
                for index, image in zip(batch["index"].tolist(), batch["input"], strict=True):
                    assert torch.equal(image, shown[epoch, index])


def test_options_that_cannot_be() -> None:
    for options, sentence in (
        ({"num_ops": 0}, "num_ops 0; give a whole number from 1"),
        ({"magnitude": 31}, "magnitude 31; give a whole number from 0 to 30"),
        ({"magnitude": 2.5}, "magnitude 2.5; give a whole number"),
        ({"num_magnitude_bins": 1}, "num_magnitude_bins 1"),
        ({"interpolation": "bicubic"}, "interpolation 'bicubic'; give nearest or bilinear"),
        ({"mean": 0.5}, "mean 0.5 and std None; give both"),
        ({"mean": 0.5, "std": [0.2, 0.0]}, r"std \[0.2, 0.0\]; give positive numbers"),
    ):
        with pytest.raises(InputError, match=sentence):
            rand_augment(**options)


def test_without_torchvision_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(InputError, match=r"needs torchvision; run pip install 'preceptor\[torchvision\]'"):
        rand_augment()


def refused(found: Data | TensorDataset, **options: Any) -> str:
    recipe = {**RECIPE, "augmentation": {"name": "rand_augment", **options}}
    with pytest.raises(InputError) as caught:
        preceptor.teach(recipe, data=found)
    return str(caught.value)


def test_data_that_are_no_pixels_are_refused_and_the_remedy_helps() -> None:
    labels = torch.arange(48) % 3
    assert "images (samples, channels" in refused(TensorDataset(torch.zeros(48, 5), labels))
    assert "have shape (2, 4, 4) each" in refused(TensorDataset(torch.zeros(48, 2, 4, 4), labels))
    floats = TensorDataset(pictures() / 255.0, labels)
    assert "the inputs are of torch.float32; give it the options mean and std" in refused(floats)
    divided = Data(ArrayDataset(torch.zeros(48, 1, 8, 8), labels), None, ("a", "b", "c"), Normalize(16.0).as_json())
    assert "of torch.float32 with divide_by 16.0" in refused(divided)
    stored = Data(ArrayDataset(torch.rand(48, 1, 8, 8), labels), None, ("a", "b", "c"), CIFAR.as_json())
    assert "of torch.float32 with divide_by 255.0" in refused(stored)
    assert "have 3 channels; give one number, or one for each" in refused(floats, mean=[0.1, 0.2], std=[1, 1])
    assert "they are -" in refused(TensorDataset(CIFAR(pictures()), labels), mean=0.0, std=1.0)
    recipe = {**RECIPE, "augmentation": {"name": "rand_augment", "mean": 0.0, "std": 1.0}}
    preceptor.teach(recipe, data=floats)


@pytest.mark.parametrize("wrong", ["red", [], {"red": 1}, [1, "x"]])
@pytest.mark.parametrize("option", ["fill", "mean"])
def test_what_is_no_number_is_refused(option: str, wrong: Any) -> None:
    other: Any = {"std": 0.5} if option == "mean" else {}
    with pytest.raises(
        InputError, match=rf"rand_augment'?( has|.*) {option} .*; give a number, or a list of one for each"
    ):
        rand_augment(**{option: wrong}, **other)
