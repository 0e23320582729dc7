"""Does assess predict students of human-labelled images? CIFAR-10H: heads on a frozen backbone, one rater's label each.

python benchmarks/human_images.py --data cifar10_jpeg.npz --counts cifar10h.npz --out runs/human-images

`--data`: a .npz with CIFAR-10 as JPEG files (train_jpeg, train_offsets, train_labels, test_... likewise, class_names)
or as arrays (train_inputs uint8 (N, 3, 32, 32), train_labels, test_inputs...). `--counts`: a .npz with CIFAR-10H's
counts (10000, 10) and the curated labels (10000,).
"""

import argparse
import io
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from known_truth import MIXTURES, sample
from preceptor.data.cifar import CIFAR10
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.recipe import TeachRecipe, load
from preceptor.study.prediction.run import Truth
from preceptor.training import teach
from preceptor.training.files import atomic_path
from preceptor.training.run import load_model
from prediction import Case, main

RECIPES = Path(__file__).parent / "recipes"
DRAW_SEED = 0


def images(arrays: dict[str, np.ndarray], part: str) -> Tensor:
    """The images of one part, uint8 (N, 3, 32, 32)."""
    if f"{part}_inputs" in arrays:
        return torch.from_numpy(arrays[f"{part}_inputs"])
    from PIL import Image

    buffer, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
    files = (buffer[a:b].tobytes() for a, b in itertools.pairwise(offsets))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def features(path: Path, out: Path) -> Tensor:
    """What the backbone makes of the 10,000 test images, (10000, 64); trained first if it is not there yet."""
    cached = out / "features.npz"
    if cached.exists():
        return torch.from_numpy(np.load(cached)["features"])
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
    with atomic_path(cached) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=torch.cat(found).numpy())
    return torch.cat(found)


def human(arguments: argparse.Namespace, curated: bool) -> tuple[Data, Truth]:
    """The 10,000 images of CIFAR-10H with one rater's label each, or with the curated ones."""
    with np.load(arguments.counts, allow_pickle=False) as file:
        counts, labels, names = file["counts"].astype(np.int64), file["labels"], tuple(map(str, file["class_names"]))
    frequency = counts / counts.sum(1, keepdims=True)
    drawn = (frequency.cumsum(1) > np.random.default_rng(DRAW_SEED).random((len(counts), 1))).argmax(1)
    inputs = features(arguments.data, arguments.out)
    dataset = ArrayDataset(inputs, labels.astype(np.int64) if curated else drawn, num_classes=len(names))
    return Data(dataset, None, names), Truth.of_counts(counts)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """The study with one rater's labels, and the one with curated labels, which are no draws from the truth."""
    if arguments.quick:
        return [Case("one-rater", RECIPES / "human-images.yaml", lambda: sample(MIXTURES["four-classes"], 600))]
    return [
        Case("one-rater", RECIPES / "human-images.yaml", lambda: human(arguments, curated=False)),
        Case("curated-premise-violated", RECIPES / "human-images.yaml", lambda: human(arguments, curated=True)),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    """Where the data are."""
    parser.add_argument("--data", type=Path, help="CIFAR-10 images, .npz")
    parser.add_argument("--counts", type=Path, help="CIFAR-10H counts, .npz")


if __name__ == "__main__":
    main(cases, "python benchmarks/human_images.py --data cifar10_jpeg.npz --counts cifar10h.npz", options)
