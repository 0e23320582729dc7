"""Random crops and mirror images, drawn by sample."""

import pytest
import torch

from preceptor import teach
from preceptor.data.augment import compose, crop_flip, cutout, random_erasing
from preceptor.errors import InputError
from preceptor.names import find
from preceptor.recipe import TeachRecipe


def by_hand(image, down, right, mirrored, padding):
    """One pixel at a time."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + down - padding, x + right - padding
                if 0 <= source_y < height and 0 <= source_x < width:
                    out[c, y, width - 1 - x if mirrored else x] = image[c, source_y, source_x]
    return out


LAYOUTS = [torch.contiguous_format, torch.channels_last]
ALL = [crop_flip(), random_erasing(probability=0.7), cutout(), compose(steps=["cutout", "crop_flip"])]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True), (4, True)])
def test_against_a_loop_over_pixels(padding, flip, dtype, layout):
    augmentation = crop_flip(padding=padding, flip=flip)
    images = torch.randint(1, 256, (7, 2, 5, 6)).to(dtype).contiguous(memory_format=layout)
    parameters = augmentation.draw(7, torch.Generator().manual_seed(1))
    expected = [by_hand(image, *row.tolist(), padding) for image, row in zip(images, parameters, strict=True)]
    changed = augmentation.apply(images, parameters)
    assert changed.dtype == dtype
    assert torch.equal(changed, torch.stack(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("augmentation", ALL, ids=lambda one: type(one).__name__)
def test_what_comes_out_lies_in_memory_as_what_went_in(augmentation, layout):
    images = torch.ones(3, 2, 16, 16).contiguous(memory_format=layout)
    changed = augmentation.apply(images, augmentation.draw(3, torch.Generator()))
    assert changed.stride() == images.stride()


@pytest.mark.parametrize("augmentation", ALL, ids=lambda one: type(one).__name__)
def test_a_sample_does_not_depend_on_its_batch(augmentation):
    images = torch.randn(9, 1, 8, 8)
    parameters = augmentation.draw(9, torch.Generator())
    whole = augmentation.apply(images, parameters)
    order = torch.randperm(9)
    assert torch.equal(augmentation.apply(images[order], parameters[order]), whole[order])
    assert torch.equal(augmentation.apply(images[3:5], parameters[3:5]), whole[3:5])


def test_draws_cover_their_range_and_follow_the_generator():
    augmentation = crop_flip(padding=2)
    parameters = augmentation.draw(500, torch.Generator().manual_seed(0))
    assert [column.unique().tolist() for column in parameters.T] == [[0, 1, 2, 3, 4]] * 2 + [[0, 1]]
    assert torch.equal(parameters, augmentation.draw(500, torch.Generator().manual_seed(0)))
    assert crop_flip(flip=False).draw(50, torch.Generator())[:, 2].sum() == 0


def test_the_middle_offset_changes_nothing():
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(crop_flip(padding=4).apply(images, torch.tensor([[4, 4, 0]] * 2)), images)


def zero_boxes(images):
    """Of images of ones, the box in which each is zero: top, left, height, width; and that nothing else is."""
    for image in images:
        rows, columns = (image == 0).any(0).any(1).nonzero().flatten(), (image == 0).any(0).any(0).nonzero().flatten()
        if not len(rows):
            assert image.eq(1).all()
            yield None
            continue
        top, left, high, wide = int(rows[0]), int(columns[0]), len(rows), len(columns)
        expected = torch.ones_like(image)
        expected[:, top : top + high, left : left + wide] = 0
        assert torch.equal(image, expected)
        yield top, left, high, wide


def test_random_erasing_takes_the_share_and_the_shape_that_were_drawn():
    augmentation, count = random_erasing(probability=0.4, scale=(0.1, 0.3), ratio=(0.5, 2.0)), 2000
    parameters = augmentation.draw(count, torch.Generator().manual_seed(0))
    boxes = list(zero_boxes(augmentation.apply(torch.ones(count, 1, 40, 50), parameters)))
    erased = [box for box in boxes if box is not None]
    assert len(erased) / count == pytest.approx(0.4, abs=0.05)
    top, left, high, wide = torch.tensor(erased).double().unbind(1)
    area, ratio = high * wide / 2000, high / wide
    assert area.min() > 0.09
    assert area.max() < 0.31
    assert area.mean().item() == pytest.approx(0.2, abs=0.01)  # uniform
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.05)
    # Anywhere within: from the first place to the last, with their middle in the middle.
    assert (top.min(), left.min(), (top + high).max(), (left + wide).max()) == (0, 0, 40, 50)
    assert (top + high / 2).mean().item() == pytest.approx(20, abs=1)
    assert (left + wide / 2).mean().item() == pytest.approx(25, abs=1)


def test_random_erasing_cuts_what_is_longer_than_the_image():
    augmentation = random_erasing(probability=1.0, scale=(0.9, 1.0), ratio=(0.01, 100.0))
    parameters = augmentation.draw(50, torch.Generator().manual_seed(0))
    for box in zero_boxes(augmentation.apply(torch.ones(50, 3, 8, 8, dtype=torch.uint8), parameters)):
        assert box is not None
        assert 1 <= box[2] <= 8
        assert 1 <= box[3] <= 8


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_is_a_square_around_any_pixel(size):
    augmentation = cutout(size=size)
    middles = [(y, x) for y in range(6) for x in range(7)]
    parameters = torch.tensor([[(y + 0.5) / 6, (x + 0.5) / 7] for y, x in middles])
    changed = augmentation.apply(torch.ones(len(middles), 2, 6, 7), parameters)
    for (y, x), image in zip(middles, changed, strict=True):
        expected = torch.ones(2, 6, 7)
        expected[:, max(0, y - size // 2) : y - size // 2 + size, max(0, x - size // 2) : x - size // 2 + size] = 0
        assert torch.equal(image, expected)


def test_composed_augmentations_follow_each_other():
    steps = [crop_flip(padding=2), cutout(size=3), random_erasing(probability=0.5)]
    augmentation = compose(steps=["crop_flip", cutout(size=3), {"name": "random_erasing", "probability": 0.5}])
    augmentation.steps[0] = steps[0]
    generator, images = torch.Generator().manual_seed(3), torch.randn(20, 2, 9, 9)
    parameters = augmentation.draw(20, torch.Generator().manual_seed(3))
    expected = images
    for step in steps:
        expected = step.apply(expected, step.draw(20, generator))
    assert torch.equal(augmentation.apply(images, parameters), expected)


def test_a_list_in_a_recipe_is_composed(tmp_path):
    steps = ["crop_flip", {"name": "random_erasing", "probability": 1.0}]
    recipe = TeachRecipe.model_validate({"augmentation": steps})
    assert recipe.augmentation is not None
    assert recipe.augmentation.model_dump() == {"name": "compose", "steps": steps}
    assert TeachRecipe.model_validate(recipe.model_dump()) == recipe
    made = find("augmentation", "compose")(**recipe.augmentation.options)
    assert [type(step) for step in made.steps] == [type(crop_flip()), type(random_erasing())]
    images = torch.utils.data.TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 2)
    kwargs = {"data": images, "model": "resnet8", "epochs": 1, "split": {"heldout": 10, "test": 10}}
    teach(recipe, folder=tmp_path / "run", **kwargs)
    with pytest.raises(InputError, match="compose has no step 'crop'; did you mean 'crop_flip'"):
        teach({"augmentation": ["crop"]}, **kwargs)


@pytest.mark.parametrize("name", ["crop_flip", "random_erasing", "cutout"])
def test_only_images_can_be_changed(name):
    augmentation = find("augmentation", name)()
    texts = torch.zeros(2, 30, dtype=torch.uint8)
    with pytest.raises(InputError, match=rf"{name} changes images .* have shape \(2, 30\); leave the augmentation out"):
        augmentation.apply(texts, augmentation.draw(2, torch.Generator()))


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (random_erasing, {"probability": 1.5}, "probability 1.5; it lies between 0 and 1"),
        (random_erasing, {"scale": (0.3, 0.1)}, r"scale \[0.3, 0.1\]; give the least and the largest"),
        (random_erasing, {"scale": (0.0, 0.1)}, "scale"),
        (random_erasing, {"ratio": (1.0,)}, "ratio"),
        (cutout, {"size": 0}, "size 0; it must be 1 or more pixels"),
        (compose, {"steps": []}, r"compose has steps \[\]; give a list"),
        (compose, {"steps": "crop_flip"}, "compose has steps 'crop_flip'; give a list"),
        (compose, {"steps": [3]}, "compose has a int as a step"),
        (compose, {"steps": ["mine:Shift"]}, "no step 'mine:Shift'; .* composed in Python"),
        (compose, {"steps": [{"name": "cutout", "sise": 3}]}, "the augmentation 'cutout' refuses .*'sise'"),
    ],
)
def test_options_that_cannot_be(make, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make(**options)


def test_refused():
    with pytest.raises(InputError, match="padding -1"):
        crop_flip(padding=-1)
    with pytest.raises(InputError, match=r"shape \(2, 5\)"):
        crop_flip().apply(torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.int64))
