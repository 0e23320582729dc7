"""Does assess predict students where the truth is known exactly? Gaussian mixtures: the toy, 4 classes, a long tail.

python benchmarks/known_truth.py --out runs/known-truth
"""

import argparse
from pathlib import Path

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.gaussian_mixture import GaussianMixture
from preceptor.study.prediction.run import Truth
from prediction import Case, main

RECIPE = Path(__file__).parent / "recipes" / "known-truth.yaml"
MIXTURES = {
    "toy": {"num_classes": 10, "dimensions": 30, "variance": 6.0},
    "four-classes": {"num_classes": 4, "dimensions": 30, "variance": 12.0},
    "long-tail": {"num_classes": 10, "dimensions": 30, "variance": 6.0, "imbalance": 20.0},
}


def sample(options: dict, num_samples: int) -> tuple[Data, Truth]:
    """A data set without test part, and the posterior of all its samples."""
    import torch

    mixture = GaussianMixture.draw(**options)
    inputs, labels = mixture.sample(num_samples)
    names = tuple(map(str, range(len(mixture.prior))))
    dataset = ArrayDataset(torch.from_numpy(inputs), labels, num_classes=len(names))
    return Data(dataset, None, names), Truth.exact(mixture.posterior(inputs))


def cases(arguments: argparse.Namespace) -> list[Case]:
    """One study a mixture."""
    size = 600 if arguments.quick else 11_000
    names = ["four-classes"] if arguments.quick else list(MIXTURES)
    return [Case(name, RECIPE, lambda name=name: sample(MIXTURES[name], size)) for name in names]


if __name__ == "__main__":
    main(cases, "python benchmarks/known_truth.py")
