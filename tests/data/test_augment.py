"""Random crops and mirror images, drawn by sample."""

import pytest
import torch

from preceptor.data.augment import crop_flip
from preceptor.errors import InputError


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


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True), (4, True)])
def test_against_a_loop_over_pixels(padding, flip):
    augmentation = crop_flip(padding=padding, flip=flip)
    images = torch.randn(7, 2, 5, 6)
    parameters = augmentation.draw(7, torch.Generator().manual_seed(1))
    expected = [by_hand(image, *row.tolist(), padding) for image, row in zip(images, parameters, strict=True)]
    assert torch.equal(augmentation.apply(images, parameters), torch.stack(expected))


def test_a_sample_does_not_depend_on_its_batch():
    augmentation = crop_flip()
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


def test_refused():
    with pytest.raises(InputError, match="padding -1"):
        crop_flip(padding=-1)
    with pytest.raises(InputError, match=r"shape \(2, 5\)"):
        crop_flip().apply(torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.int64))
