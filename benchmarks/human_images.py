"""Does assess predict students of human-labelled images? CIFAR-10H: heads on a frozen backbone, one rater's label each.

python benchmarks/human_images.py --data cifar10_jpeg.npz --counts cifar10h.npz --out runs/human-images

With --gpu the large form instead: teachers and students trained end to end on CIFAR-10's 50,000 training images, and
assessed and tested on the 10,000 (recipes/human-images-gpu.yaml says what it costs).

`--data`: a .npz with CIFAR-10 as JPEG files (train_jpeg, train_offsets, train_labels, test_... likewise, class_names)
or as arrays (train_inputs uint8 (N, 3, 32, 32), train_labels, test_inputs...). `--counts`: a .npz with CIFAR-10H's
counts (10000, 10) and the curated labels (10000,).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foretold.command import Case, features, main
from foretold.truth import Truth
from images import decode
from known_truth import MIXTURES, sample
from preceptor.assess.distance import draw_labels
from preceptor.data.cifar import CIFAR10
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.recipe import TeachRecipe, load, read_yaml
from preceptor.runs import load_model
from preceptor.training import teach

RECIPES = Path(__file__).parent / "recipes"
DRAW_SEED = 0
GPU_RATES = (0.01, 0.03, 0.1)


def images(arrays: dict[str, np.ndarray], part: str) -> Tensor:
    """The images of one part, uint8 (N, 3, 32, 32)."""
    if f"{part}_inputs" in arrays:
        return torch.from_numpy(arrays[f"{part}_inputs"])
    return torch.from_numpy(decode(arrays, part))


def backbone(path: Path, out: Path) -> Tensor:
    """What a backbone, trained first, makes of the 10,000 test images, (10000, 64)."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    names = tuple(map(str, arrays["class_names"]))
    normalize = CIFAR10.normalize
    train = ArrayDataset(images(arrays, "train"), arrays["train_labels"].astype(np.int64), transform=normalize)
    print("the backbone: 20 epochs on 50,000 images", flush=True)
    teach(load(TeachRecipe, RECIPES / "backbone.yaml"), out / "backbone", data=Data(train, None, names), progress=True)
    model, _ = load_model(out / "backbone" / "last.safetensors")
    found: list[Tensor] = []
    model.fc.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))  # type: ignore[union-attr]
    with torch.inference_mode():
        for chunk in images(arrays, "test").split(500):
            model(normalize(chunk))
    return torch.cat(found)


def human(arguments: argparse.Namespace, curated: bool) -> tuple[Data, Truth]:
    """The 10,000 images of CIFAR-10H with one rater's label each, or with the curated ones."""
    with np.load(arguments.counts, allow_pickle=False) as file:
        counts, labels, names = file["counts"].astype(np.int64), file["labels"], tuple(map(str, file["class_names"]))
    inputs = features(arguments.out, arguments.data, "backbone", lambda: backbone(arguments.data, arguments.out))
    dataset = ArrayDataset(inputs, labels.astype(np.int64) if curated else drawn(counts), num_classes=len(names))
    return Data(dataset, None, names), Truth.of_counts(counts)


def drawn(counts: np.ndarray) -> np.ndarray:
    """One rater's label of each image (N,), from how many raters chose each class (N, C)."""
    return draw_labels(counts / counts.sum(1, keepdims=True), DRAW_SEED)


def end_to_end(arguments: argparse.Namespace) -> tuple[Data, Truth]:
    """All 60,000 images: the training images to learn from, those of CIFAR-10H to be held out and tested on."""
    with np.load(arguments.data, allow_pickle=False) as file:
        arrays = dict(file)
    with np.load(arguments.counts, allow_pickle=False) as file:
        counts = file["counts"].astype(np.int64)
    inputs = torch.cat([images(arrays, "train"), images(arrays, "test")])
    labels = np.concatenate([arrays["train_labels"].astype(np.int64), drawn(counts)])
    dataset = ArrayDataset(inputs, labels, transform=CIFAR10.normalize)
    return scored_behind(dataset, tuple(map(str, arrays["class_names"])), Truth.of_counts(counts))


def scored_behind(dataset: ArrayDataset, names: tuple[str, ...], truth: Truth) -> tuple[Data, Truth]:
    """A data set whose truth is known of its last samples only, which are then for holding out and testing."""
    before = len(dataset) - len(truth.probs)
    pool = torch.arange(before, len(dataset))
    return Data(dataset, None, names, pools={"heldout": pool, "test": pool}), truth.after(before)


def tiny_images() -> tuple[Data, Truth]:
    """Points of a mixture as images of 5 x 6 pixels; the truth is known of the last 200 of 400."""
    data, truth = sample(MIXTURES["four-classes"], 400)
    dataset = ArrayDataset(data.train.inputs.view(-1, 1, 5, 6), data.train.labels)  # type: ignore[attr-defined]
    return scored_behind(dataset, data.class_names, Truth.exact(truth.probs[-200:]))


def quick_gpu() -> list[str]:
    """What makes of the quick recipe a tiny form of the large one: convnets, and two of the losses that it adds."""
    large = read_yaml(RECIPES / "human-images-gpu.yaml")
    losses = {name: large["losses"][name] for name in ("dkd", "dist")}
    both = ["split={heldout: 100, test: rest}", "model={name: cnn, widths: [4], hidden: 8}", "training.batch_size=100"]
    return [
        *(f"{verb}.{change}" for verb in ("teach", "distill") for change in both),
        "distill.training.epochs=1",
        "teach.augmentation={name: crop_flip, padding: 1}",
        f"losses={json.dumps(losses)}",
        "students_per_stack=30",
    ]


def cases(arguments: argparse.Namespace) -> list[Case]:
    """One rater's labels, and in a second study curated ones, which are no draws from the truth; or the large form."""
    if arguments.gpu:
        made, changes = (tiny_images, quick_gpu()) if arguments.quick else (lambda: end_to_end(arguments), [])
        return [
            Case("gpu", RECIPES / "human-images-gpu.yaml", made, overrides=changes, rates=GPU_RATES),
        ]
    if arguments.quick:
        return [Case("one-rater", RECIPES / "human-images.yaml", lambda: sample(MIXTURES["four-classes"], 600))]
    return [
        Case("one-rater", RECIPES / "human-images.yaml", lambda: human(arguments, curated=False)),
        Case("curated-premise-violated", RECIPES / "human-images.yaml", lambda: human(arguments, curated=True)),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    """Where the data are."""
    parser.add_argument("--data", type=Path, help="CIFAR-10 images, .npz")
    parser.add_argument("--gpu", action="store_true", help="the large form: end to end on all images, hours on a GPU")
    parser.add_argument("--counts", type=Path, help="CIFAR-10H counts, .npz")


if __name__ == "__main__":
    main(cases, options)
