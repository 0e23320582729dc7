"""Image networks that teach their own kind, generation after generation, and what their features are worth elsewhere.

python benchmarks/generations.py --data-dir DATA --out runs/generations --processes 2               # two CPU cores
python benchmarks/generations.py --size gpu --data-dir DATA --out runs/generations-gpu --budget 480  # in pieces

The claims of arXiv 1805.05551: a tolerant first teacher makes a chain that rises, ensembles of generations gain more,
and the features of later generations transfer better. Three chains (a strict, a label-smoothed and a tolerant start) of
five generations are trained on each of two data sets, CIFAR-10 and 100 classes of Tiny-ImageNet; of every generation
the features before the classifier are probed by a logistic regression on the other data set. DATA holds what
benchmarks/images.py reads. Every run is a run folder: the same command, stopped or out of its budget, goes on.
Nothing is tuned: settings are those of our generations on Fashion-MNIST, with KD at T = 1 and half hard labels.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import preceptor
from arena import CNN, tiny
from images import cifar10_data, tinyimagenet_data
from pieces import Clock, command_line, in_phases, main_of, parsed, write_tables
from preceptor import assess
from preceptor.assess import mean_interval
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.outputs import average_probabilities
from preceptor.runs import read_predictions
from preceptor.runs.files import read_json, write_text
from preceptor.study.text import facts, markdown_table, plus_minus
from preceptor.tasks.looking import Look
from preceptor.tasks.taps import Taps
from preceptor.training import distill, teach

STARTS: dict[str, Any] = {
    "strict": "cross_entropy",
    "smoothed": {"name": "label_smoothing", "smoothing": 0.1},
    "tolerant": {"name": "tolerant", "eta": 0.5},
}
OTHER = {"cifar10": "tinyimagenet", "tinyimagenet": "cifar10"}


class Size(NamedTuple):
    """One form of the tables.

    Args:
        images: of each data set that chains learn from, and probes.
        probed: test images of the other data set that a probe is scored on.
    """

    model: Any
    images: int
    probed: int
    heldout: int
    generations: int
    seeds: int
    lr: float
    padding: int
    training: dict[str, Any]


SIZES = {
    "cpu": Size("resnet8", 5000, 5000, 500, 5, 3, 0.1, 4, {"epochs": 6, "batch_size": 64, "precision": "auto"}),
    "gpu": Size(
        "resnet20", 50_000, 5000, 5000, 5, 3, 0.4, 4,
        {"epochs": 60, "batch_size": 512, "precision": "auto", "compile": "auto"},
    ),
    "quick": Size(CNN | {"widths": [2]}, 300, 100, 60, 2, 2, 0.1, 1, {"epochs": 1, "batch_size": 60}),
}  # fmt: skip


class Chains:
    """The chains of one seed on one data set, in a folder: ``START/GENERATION`` is a run, `probe.json` is beside it."""

    def __init__(self, size: Size, source: str, seed: int, data: Data, other: Data, out: Path, clock: Clock) -> None:
        self.size, self.source, self.seed, self.data, self.other = size, source, seed, data, other
        self.folder, self.clock = out / source / f"seed-{seed}", clock
        self.progress = sys.stderr.isatty()

    def train(self) -> None:
        """All runs and probes that are not there yet."""
        for start, objective in STARTS.items():
            for generation in range(self.size.generations):
                place = self.folder / start / f"generation-{generation}"
                if not (place / "result.json").is_file():
                    with self.clock.run("teacher" if generation == 0 else "student"):
                        self._run(place, generation, objective)
                if not (place / "probe.json").is_file():
                    with self.clock.run("probe"):
                        score = probe(place, self.data, self.other, self.size)
                        write_text(place / "probe.json", json.dumps({"accuracy": score}) + "\n")

    def _run(self, place: Path, generation: int, objective: Any) -> None:
        recipe = {
            "model": self.size.model,
            "split": {"heldout": self.size.heldout},
            "augmentation": {"name": "crop_flip", "padding": self.size.padding},
            "optimizer": {"name": "sgd", "lr": self.size.lr, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            "schedule": {"name": "one_cycle", "warmup_epochs": self.size.training["epochs"] / 5},
            "training": self.size.training,
            "seed": self.seed,
        }
        given: dict[str, Any] = {"data": self.data, "progress": self.progress}
        if generation == 0:
            teach(recipe | {"objective": objective}, place, **given)
            return
        loss = {"loss": {"name": "kd", "temperature": 1.0}, "ce_weight": 0.5, "distill_weight": 0.5}
        parent = place.parent / f"generation-{generation - 1}"
        distill(recipe | loss | {"generation": generation}, place, teacher=str(parent), **given)


def probe(run: Path, data: Data, other: Data, size: Size) -> float:
    """Test accuracy on another data set of a logistic regression on a network's features before its classifier.

    Args:
        run: the network's.
        data: what it was trained on, whose pixels it expects to be normalised so.
        other: the data set of the probe; its images are normalised as the network's own were.
    """
    model: nn.Module = preceptor.load(run)
    normalize: Any = data.train
    read = (lambda images: images) if normalize.transform is None else normalize.transform
    both = _spread(other.train, size.images), _spread(other.test, size.probed)
    found = [(features(model, read(part.inputs)).numpy(), part.labels.numpy()) for part in both]
    (x, y), (x_test, y_test) = found
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
    return float(regression.score(x_test, y_test))


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What a network's classifier is given of each image, (N, D)."""
    model.eval()
    few = images[:2]
    [tap] = Look(model, lambda: model(few), "network").resolve(["penultimate"])
    found = []
    with torch.no_grad():
        for part in images.split(512):
            with Taps(model, [tap], "network") as caught:
                model(part)
            found.append(caught[tap])
    return torch.cat(found)


def data_sets(size: Size, folder: Path, cache: Path, quick: bool) -> dict[str, Data]:
    """Both data sets, the training images cut to their first ones."""
    if quick:
        return {name: tiny(folder, cache) for name in OTHER}
    found = {"cifar10": cifar10_data(folder, cache), "tinyimagenet": tinyimagenet_data(folder, cache)}
    return {name: replace(data, train=_spread(data.train, size.images)) for name, data in found.items()}


def _spread(part: Any, count: int) -> ArrayDataset:
    """Images evenly over a data set, which may be sorted by class."""
    rows = torch.linspace(0, len(part.labels) - 1, count).round().long()
    return ArrayDataset(part.inputs[rows], part.labels[rows], transform=part.transform)


# -- the tables --------------------------------------------------------------------------------------------------------


def collect(out: Path, size: Size) -> dict[str, Any]:
    """Test scores of all generations, one value a seed, of the seeds that are complete on a data set."""
    found: dict[str, Any] = {}
    for source in OTHER:
        folders = [each for each in sorted((out / source).glob("seed-*")) if _complete(each, size)]
        if folders:
            chains = {start: [_scores(folders, start, g) for g in range(size.generations)] for start in STARTS}
            found[source] = {"seeds": [int(each.name.removeprefix("seed-")) for each in folders], "chains": chains}
    return found


def _complete(folder: Path, size: Size) -> bool:
    places = [folder / start / f"generation-{g}" for start in STARTS for g in range(size.generations)]
    return all((place / "probe.json").is_file() for place in places)


def _scores(folders: Sequence[Path], start: str, generation: int) -> dict[str, list[float]]:
    rows = [_score(folder / start, generation) for folder in folders]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _score(chain: Path, generation: int) -> dict[str, float]:
    stored = [read_predictions(chain / f"generation-{g}") for g in range(generation + 1)]
    labels = stored[0]["test/labels"]
    own = assess.forecast(stored[-1]["test/last"].double().log_softmax(-1))
    together = assess.forecast(average_probabilities([each["test/last"] for each in stored]))
    return {
        "accuracy": float(assess.accuracy(own, labels).mean()),
        "brier": float(assess.brier(own, labels).mean()),
        "entropy": float(assess.entropy(own).mean()),
        "ensemble": float(assess.accuracy(together, labels).mean()),
        "probe": read_json(chain / f"generation-{generation}" / "probe.json")["accuracy"],
    }


def markdown(result: Mapping[str, Any]) -> str:
    """A table for each data set."""
    parts = [
        f"**Trained on {source}, probed on {OTHER[source]}** (seeds {', '.join(map(str, found['seeds']))}):\n\n"
        + _table(found["chains"])
        for source, found in result["sources"].items()
    ]
    shown = "; ".join(f"{name} {value}" for name, value in facts({**result, "time_total": None}).items())
    note = (
        f"Made by `{result['command']}`; {shown}. Test accuracies in per cent; ±: half the 95 % Student-t interval "
        "over seeds, of paired differences under 'vs gen. 0'. Ensemble: mean of all generations' probabilities so far."
    )
    return "\n\n".join([*parts, note]) + "\n"


def _table(chains: dict[str, list[dict[str, list[float]]]]) -> str:
    rows = []
    for start, links in chains.items():
        for generation, link in enumerate(links):
            of = {key: 100 * np.array(values) for key, values in link.items()}
            first = {key: 100 * np.array(values) for key, values in links[0].items()}
            gains = [of[key] - first[key] for key in ("accuracy", "probe")]
            risen, better = (plus_minus(mean_interval(gain), sign=True) if generation else "" for gain in gains)
            ensemble = plus_minus(mean_interval(of["ensemble"])) if generation else ""
            means = [f"{np.mean(link[key]):.3f}" for key in ("entropy", "brier")]
            own, probed = (plus_minus(mean_interval(of[key])) for key in ("accuracy", "probe"))
            rows.append([start, str(generation), own, risen, *means, ensemble, probed, better])
    headers = ["start", "gen.", "accuracy", "vs gen. 0", "entropy", "Brier", "ensemble", "probe", "vs gen. 0"]
    return markdown_table(headers, rows)


# -- the command -------------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained yet and the budget allows; write `generations.json` and `generations.md`."""
    files = "the files of benchmarks/images.py"
    arguments = parsed(command_line(str(__doc__), SIZES, files, "cifar10/0"), given)
    size, out = SIZES[arguments.size], arguments.out
    size = size._replace(training=size.training | {"device": arguments.device})
    out.mkdir(parents=True, exist_ok=True)

    def make(clock: Clock) -> Callable[[str], None]:
        data = data_sets(size, arguments.data_dir, out / "images", arguments.quick)

        def do(part: str) -> None:
            source, _, seed = part.partition("/")
            Chains(size, source, int(seed), data[source], data[OTHER[source]], out, clock).train()

        return do

    in_phases(
        __file__, [[f"{source}/{seed}" for seed in range(size.seeds) for source in OTHER]], arguments, given, make
    )
    sources = collect(out, size)
    seeds = sorted({seed for found in sources.values() for seed in found["seeds"]})
    result = {"size": arguments.size, "sources": sources, "seeds": seeds}
    write_tables("generations", result, markdown, out, arguments.device)


if __name__ == "__main__":
    main_of(main)
