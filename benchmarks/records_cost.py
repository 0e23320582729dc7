"""What it costs to learn from a record: time of a training epoch, beside plain supervised training of the same model.

    python benchmarks/records_cost.py
    python benchmarks/records_cost.py --models cnn --samples 2000 --repeats 3     # half a minute

Aim: at most 1.05 times plain supervised training. Both ways have the same random images of 32x32 in 100 classes, the
same crops and mirror images, batches and optimizer; the student learns by KD and cross-entropy from two recorded views.
Runs take turns, and of each the fastest epoch but the first counts; shown are the median over the turns, and the median
of the ratios within a turn.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import preceptor
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.study.text import markdown_table

CLASSES, SIDE, HELDOUT, EPOCHS = 100, 32, 100, 3
WAYS = {
    "supervised": {},
    "dense, float32": {"form": "dense"},
    "dense, float16": {"form": "dense", "dtype": "float16"},
    "top 10": {"form": "top_k", "k": 10},
    "sampled 12": {"form": "sampled", "k": 12},
}


def cost(model: str, samples: int, repeats: int, *, ways: list[str] | None = None) -> dict[str, dict[str, float]]:
    """For each way the seconds of an epoch, and their ratio to plain supervised training.

    Args:
        model: of the zoo.
        samples: that are trained on.
        repeats: turns.
        ways: some of `WAYS`; all by default. Supervised training is always among them.
    """
    chosen = ["supervised", *(way for way in (ways or list(WAYS)) if way != "supervised")]
    data = images(samples + HELDOUT)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        common: dict[str, Any] = {
            "data": data,
            "split": {"train": samples, "heldout": HELDOUT},
            "augmentation": "crop_flip",
        }
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, CLASSES))
        for way in chosen[1:]:
            preceptor.record(teacher, place / way, views=2, heldout=False, **WAYS[way], **common)
        turns = [
            {way: seconds(way, model, place, place / f"{turn} {way}", common) for way in chosen}
            for turn in range(repeats)
        ]
    return {
        way: {
            "seconds": statistics.median(turn[way] for turn in turns),
            "ratio": statistics.median(turn[way] / turn["supervised"] for turn in turns),
        }
        for way in chosen
    }


def seconds(way: str, model: str, records: Path, folder: Path, common: dict[str, Any]) -> float:
    """Of the fastest epoch but the first of one run."""
    options = {"model": model, "epochs": EPOCHS, "batch_size": 64, "folder": folder, **common}
    if way == "supervised":
        preceptor.teach(**options)
    else:
        loss = {"name": "kd", "temperature": 4.0}
        preceptor.distill(teacher=records / way, loss=loss, **options)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return min(json.loads(line)["time_epoch"] for line in lines[1:])


def images(samples: int) -> Data:
    """Random bytes as images, and labels in turn; a tenth of them for a test set."""
    generator = torch.Generator().manual_seed(0)
    normalize = Normalize(divide_by=255.0, mean=(0.5,) * 3, std=(0.25,) * 3)

    def part(count: int) -> ArrayDataset:
        pixels: Tensor = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        return ArrayDataset(pixels, torch.arange(count) % CLASSES, transform=normalize)

    return Data(part(samples), part(HELDOUT), tuple(map(str, range(CLASSES))), normalize.as_json())


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, a row a model and way."""
    rows = [
        [model, way, f"{each['seconds']:.2f}", f"{each['ratio']:.3f}"]
        for model, ways in found.items()
        for way, each in ways.items()
    ]
    return markdown_table(["model", "learns from", "seconds an epoch", "times supervised"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "cnn"])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS))
    args = parser.parse_args()
    found = {model: cost(model, args.samples, args.repeats, ways=args.ways) for model in args.models}
    print(table(found))


if __name__ == "__main__":
    main()
