"""Does assess predict students where the truth is known exactly? Gaussian mixtures: the toy, 4 classes, a long tail.

python benchmarks/known_truth.py --out runs/known-truth
"""

import argparse
import json
from pathlib import Path

from foretold.command import Case, main
from foretold.truth import Truth
from preceptor.data.dataset import Data
from preceptor.data.gaussian_mixture import GaussianMixture, gaussian_mixture

RECIPE = Path(__file__).parent / "recipes" / "known-truth.yaml"
MIXTURES = {
    "toy": {"num_classes": 10, "dimensions": 30, "variance": 6.0},
    "four-classes": {"num_classes": 4, "dimensions": 30, "variance": 12.0},
    "long-tail": {"num_classes": 10, "dimensions": 30, "variance": 6.0, "imbalance": 20.0},
}


def sample(options: dict, num_samples: int) -> tuple[Data, Truth]:
    """A data set without test part, and the posterior of all its samples."""
    data = gaussian_mixture(num_samples=num_samples, **options)
    return data, Truth.exact(GaussianMixture.draw(**options).posterior(data.train.inputs.numpy()))  # type: ignore[attr-defined]


def case(name: str, num_samples: int) -> Case:
    """The study of one mixture."""
    data = json.dumps({"name": "gaussian_mixture", "num_samples": num_samples} | MIXTURES[name])
    changes = [f"{verb}.data={data}" for verb in ("teach", "distill")]
    return Case(name, RECIPE, lambda: sample(MIXTURES[name], num_samples), changes)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """One study a mixture."""
    return [case("four-classes", 600)] if arguments.quick else [case(name, 11_000) for name in MIXTURES]


if __name__ == "__main__":
    main(cases)
