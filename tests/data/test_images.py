"""Trees of image files and Tiny-ImageNet, from files that the tests write."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset

from preceptor import distill, teach
from preceptor.data import image_folder, tiny_imagenet
from preceptor.data.dataset import ArrayDataset
from preceptor.data.images import ImageFiles
from preceptor.errors import InputError

RED, GREEN, BLUE = (250, 10, 20), (10, 250, 20), (10, 20, 250)
PLAIN = {"mean": 0.0, "std": 1.0}


def save(path, colour=RED, size=(6, 4), mode="RGB"):
    """One image of one colour; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes, in another order than their names; three images to train on, two to hold out, two to test."""
    for part, count in (("train", 3), ("val", 1), ("test", 1)):
        for name, colour in (("dog", GREEN), ("cat", RED)):
            for number in range(count if name == "dog" else 1):
                save(tmp_path / "tree" / part / name / f"{number}.png", colour)
    return tmp_path / "tree"


def test_a_tree_of_three_parts(tree):
    data = image_folder(folder=str(tree), **PLAIN)
    assert data.class_names == ("cat", "dog")
    assert type(data.train) is type(data.test) is ArrayDataset
    assert data.train.labels.tolist() == [0, 1, 1, 1, 0, 1]
    assert data.pools["heldout"].tolist() == [4, 5]  # val, behind the training images
    assert (data.train.inputs.dtype, data.train.inputs.shape) == (torch.uint8, (6, 3, 4, 6))
    assert [tuple(image[:, 3, 5].tolist()) for image in data.train.inputs] == [RED, GREEN, GREEN, GREEN, RED, GREEN]
    assert data.test.labels.tolist() == [0, 1]
    torch.testing.assert_close(data.test[1][0][:, 0, 0], torch.tensor(GREEN) / 255)


def test_validation_images_alone_are_the_test_set(tree):
    for image in (tree / "test").rglob("*.png"):
        image.unlink()
    for folder in (tree / "test" / "cat", tree / "test" / "dog", tree / "test"):
        folder.rmdir()
    data = image_folder(folder=tree)
    assert (len(data.train), len(data.test), data.pools) == (4, 2, None)


def test_a_tree_without_parts_is_all_training(tree):
    data = image_folder(folder=tree / "train")
    assert (len(data.train), data.test, data.pools) == (4, None, None)


def test_images_are_normalised_as_imagenet_s(tree):
    data = image_folder(folder=tree)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(data.train[0][0][:, 0, 0], (torch.tensor(RED) / 255 - mean) / std)
    assert data.preprocessing["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_files_read_one_by_one_are_the_same(tree):
    at_once, later = (image_folder(folder=tree, size=5, in_memory=held) for held in (True, False))
    assert isinstance(later.train, ConcatDataset)  # with the held-out images behind
    assert isinstance(later.test, ImageFiles)
    for one, other in ((at_once.train, later.train), (at_once.test, later.test)):
        assert len(one) == len(other)
        for (image, label), (image_later, label_later) in zip(one, other, strict=True):
            assert torch.equal(image, image_later)
            assert label == label_later


def test_what_does_not_fit_memory_is_read_one_by_one(tree, monkeypatch):
    pixels = (4 + 2 + 2) * 3 * 4 * 6
    monkeypatch.setattr("preceptor.data.images.MOST_BYTES", pixels)
    assert isinstance(image_folder(folder=tree).test, ArrayDataset)
    monkeypatch.setattr("preceptor.data.images.MOST_BYTES", pixels - 1)
    assert isinstance(image_folder(folder=tree).test, ImageFiles)


def test_size_keeps_the_middle(tmp_path):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, :20], stripes[:, 20:40], stripes[:, 40:] = RED, GREEN, BLUE
    for name, array in (("wide", stripes), ("high", stripes.transpose(1, 0, 2))):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "a.png")
    for size in (20, 40, [10, 10]):
        images = image_folder(folder=tmp_path, size=size).train.inputs
        side = size if isinstance(size, int) else 10
        assert images.shape == (2, 3, side, side)
        inner = images[..., 2:-2, 2:-2] if side == 40 else images[..., 1:-1, 1:-1]  # edges are interpolated
        assert (inner == torch.tensor(GREEN, dtype=torch.uint8)[:, None, None]).all()
    assert image_folder(folder=tmp_path, size=[10, 30]).input_shape == (3, 10, 30)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_modes_become_three_colours(tmp_path, mode):
    save(tmp_path / "a" / "0.tif" if mode == "CMYK" else tmp_path / "a" / "0.png", (255, 255, 255), mode=mode)
    save(tmp_path / "b" / "0.png", (0, 0, 0), mode="RGB")
    inputs = image_folder(folder=tmp_path).train.inputs
    assert inputs.shape == (2, 3, 4, 6)
    assert inputs[0].eq(255).all()


def test_a_palette_with_a_transparent_colour_is_read_without_warning(tmp_path):
    Image.new("P", (6, 4), 1).save(save(tmp_path / "a" / "0.png"), transparency=b"\x00\xff")
    save(tmp_path / "b" / "0.png")
    assert image_folder(folder=tmp_path).train.inputs.shape == (2, 3, 4, 6)


def test_what_file_managers_leave_is_not_read(tree):
    for name in (".DS_Store", "Thumbs.db"):
        (tree / "train" / "cat" / name).write_bytes(b"x")
    (tree / ".cache").mkdir()
    save(tree / "train" / "cat" / "within" / "z.JPEG")
    assert len(image_folder(folder=tree).train) == 7


def damage(tree, kind):
    cat = tree / "train" / "cat"
    match kind:
        case "empty class":
            (cat / "0.png").unlink()
        case "other classes":
            save(tree / "test" / "bird" / "0.png")
        case "no such class":
            (tree / "val" / "cat" / "0.png").unlink()
            (tree / "val" / "cat").rmdir()
            save(tree / "val" / "zebra" / "0.png")
        case "text":
            (cat / "notes.txt").write_text("two cats")
        case "text called an image":
            (cat / "0.png").write_text("two cats")
        case "nothing":
            (cat / "0.png").write_bytes(b"")
        case "truncated":
            save(cat / "0.png", size=(64, 64))
            noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(cat / "0.png")
            (cat / "0.png").write_bytes((cat / "0.png").read_bytes()[:2000])
        case "truncated JPEG":
            (cat / "0.png").unlink()
            save(cat / "0.jpg", size=(64, 64))
            (cat / "0.jpg").write_bytes((cat / "0.jpg").read_bytes()[:-20])
        case "other size":
            for name in ("cat", "dog"):
                save(tree / "val" / name / "0.png", size=(4, 6))
        case "16 bits":
            Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(cat / "0.png")
        case "one class":
            for image in tree.rglob("cat/*.png"):
                image.unlink()
                image.parent.rmdir()
        case "no train":
            (tree / "train").rename(tree / "training")


def read_all(data):
    """Where files are read later, they are refused later."""
    for part in (data.train, data.test):
        for index in range(len(part)):
            part[index]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("empty class", r"the class folder .*train/cat holds no image; put some into it or remove it"),
        ("other classes", r"label 0 is 'cat' in .*train and 'bird' in .*test \(2 and 3 classes\)"),
        ("no such class", r"label 0 is 'cat' in .*train and 'dog' in .*val"),
        ("text", r"cat/notes\.txt is no image by its name \(\.bmp, .*\); take it out of the folder"),
        ("text called an image", r"cat/0\.png is no image that Pillow can read; repair or remove it"),
        ("nothing", r"cat/0\.png is no image that Pillow can read"),
        ("truncated", r"cat/0\.png is truncated or damaged \(.*\); repair or remove it"),
        ("truncated JPEG", r"cat/0\.jpg is truncated or damaged \(.*\); repair or remove it"),
        ("other size", r"val/cat/0\.png has 6x4 pixels \(height x width\) and .*train/cat/0\.png 4x6; .*size=4"),
        ("16 bits", r"cat/0\.png has more than 8 bits a pixel \(mode I;16\); save it with 8 bits"),
        ("one class", r"train holds 1 folders and a class is a folder of images"),
        ("no train", r"tree holds 'val' and no 'train'; name the training images' folder so"),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_trees(tree, kind, sentence, in_memory):
    damage(tree, kind)
    with pytest.raises(InputError, match=sentence):
        read_all(image_folder(folder=tree, in_memory=in_memory))


@pytest.mark.parametrize("size", [0, -3, True, "32", 2.5, [32], [32, 0], [1, 2, 3]])
def test_sizes_that_are_none(tree, size):
    with pytest.raises(InputError, match=r"size is .*; give pixels above 0, size=32, or .*size=\[32, 48\]"):
        image_folder(folder=tree, size=size)


def test_other_options_are_checked(tree, tmp_path):
    with pytest.raises(InputError, match="mean has 2 values but the inputs have 3 channels"):
        image_folder(folder=tree, mean=[0.1, 0.2])
    with pytest.raises(InputError, match=r"std is \(0.0,\); both must be positive"):
        image_folder(folder=tree, std=0)
    with pytest.raises(InputError, match=r"there is no folder '.*nowhere'; give folder"):
        image_folder(folder=tmp_path / "nowhere")


def test_without_pillow(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"image files need Pillow; run pip install 'preceptor\[images\]'$"):
        image_folder(folder=tree)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_recipe_trains_on_a_tree(tmp_path, in_memory):
    for name, colour in (("cat", RED), ("dog", GREEN)):
        for number in range(20):
            save(tmp_path / "tree" / name / f"{number}.png", colour, (9, 8))
    options = {"name": "image_folder", "folder": str(tmp_path / "tree"), "size": 8, "in_memory": in_memory}
    given = {"data": options, "split": {"train": 20, "heldout": 10, "test": "rest"}, "model": "resnet8"}
    given |= {"training": {"epochs": 6, "batch_size": 10}, "augmentation": {"name": "crop_flip", "padding": 1}}
    teach(given, folder=tmp_path / "teacher")
    result = distill(given, teacher=tmp_path / "teacher", folder=tmp_path / "student")
    assert result["test"]["last"]["accuracy"] == 1.0


# --- Tiny-ImageNet

WNIDS = ["n02", "n01", "n03"]  # its own list is in no order, either


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid, colour in zip(WNIDS, (GREEN, RED, BLUE), strict=True):
        for number in range(2):
            save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour, (64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    save(root / "val" / "images" / "val_0.JPEG", BLUE, (64, 64))
    save(root / "val" / "images" / "val_1.JPEG", (128, 128, 128), (64, 64), mode="L")
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn01\t0\t32\t44\t62\nval_0.JPEG\tn03\t5\t5\t9\t9")
    save(root / "test" / "images" / "test_0.JPEG", BLUE, (64, 64))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane, bird\n")
    return root


def test_tiny_imagenet(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place in (tiny, tiny.parent):
        data = tiny_imagenet(data_dir=place, **PLAIN)
        assert data.class_names == ("goldfish", "crane (n02)", "crane (n03)")
        assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.test.labels.tolist() == [0, 2]
        assert data.input_shape == (3, 64, 64)
        colours = data.train.inputs[::2, :, 30, 30].int()
        assert (colours - torch.tensor([RED, GREEN, BLUE])).abs().max() <= 3  # JPEG
        assert (data.test.inputs[0].int() - 128).abs().max() <= 3
    assert tiny_imagenet(data_dir=tiny, size=32).input_shape == (3, 32, 32)
    assert isinstance(tiny_imagenet(data_dir=tiny, in_memory=False).test, ImageFiles)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn09\t0\t0\t1\t1\n",
            r"line 1 of .*names no class .*\('n09'\)",
        ),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t1\t1\n", r"val_1\.JPEG stands in no line of .*annotations"),
        ("val/images/val_1.JPEG", None, r"the image .*val_1\.JPEG is missing"),
        ("val/val_annotations.txt", None, r"val_annotations\.txt cannot be read"),
        ("words.txt", None, r"words\.txt cannot be read"),
        ("wnids.txt", "", "names 0 classes instead of 200"),
        ("wnids.txt", "n01\nn04\n", r"the class folder .*train/n04/images holds no image"),
        ("wnids.txt", None, r"Tiny-ImageNet .* is in none of .*tiny-imagenet-200, .*cache.*; unpack http"),
        ("train/n02/images/n02_1.JPEG", "no image", r"n02_1\.JPEG is no image that Pillow can read"),
    ],
)
def test_damaged_tiny_imagenet(tiny, file, content, sentence, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tiny / file).unlink()
    if content is not None:
        (tiny / file).write_text(content)
    with pytest.raises(InputError, match=sentence):
        tiny_imagenet(data_dir=tiny)
