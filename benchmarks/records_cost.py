"""What it costs to learn from a record: the time of a step, beside plain supervised training of the same model.

    python benchmarks/records_cost.py
    python benchmarks/records_cost.py --models cnn --steps 40                      # half a minute

Aim: at most 1.05 times plain supervised training. All ways have the same random images of 32x32 in 100 classes, the
same crops and mirror images, batches of 64 and optimizer; the students learn by KD and cross-entropy from two recorded
views. The ways take their steps in turn, so that whatever else the machine does meets all of them. A step is the making
of its batch, both passes and the update; shown are medians of the processor's time, of one thread, and the median of
the ratios to the supervised step of the same turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import preceptor
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.notices import notes_kept
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.recipe.keywords import make_recipe
from preceptor.study.text import markdown_table
from preceptor.training.job import Job
from preceptor.training.loop.loop import Loop
from preceptor.training.resolve import distill_job, teach_job
from preceptor.training.scoring.evaluate import Evaluator

CLASSES, SIDE, HELDOUT, BATCH = 100, 32, 100, 64
WARM_UP = 3  # steps that do not count
WAYS: dict[str, dict[str, Any]] = {
    "labels alone": {},
    "dense, float32": {"form": "dense"},
    "dense, float16": {"form": "dense", "dtype": "float16"},
    "top 10": {"form": "top_k", "k": 10},
    "sampled 12": {"form": "sampled", "k": 12},
}
PLAIN = next(iter(WAYS))


def cost(model: str, steps: int, *, ways: list[str] | None = None) -> dict[str, dict[str, float]]:
    """For each way the milliseconds of a step, and their ratio to plain supervised training.

    Args:
        model: of the zoo.
        steps: that count, of each way.
        ways: some of `WAYS`; all by default. Supervised training is always among them.
    """
    torch.set_num_threads(1)
    chosen = [way for way in WAYS if way == PLAIN or ways is None or way in ways]
    common: dict[str, Any] = {
        "split": {"train": BATCH * (steps + WARM_UP) // 2, "heldout": HELDOUT},  # both views are met
        "augmentation": "crop_flip",
    }
    data = images(common["split"]["train"] + HELDOUT)
    with tempfile.TemporaryDirectory() as folder, notes_kept():
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, CLASSES))
        for way in chosen[1:]:
            preceptor.record(teacher, Path(folder) / way, data=data, views=2, heldout=False, **WAYS[way], **common)
        running = {way: stepping(job_of(way, model, Path(folder), data, common)) for way in chosen}
        for _ in range(WARM_UP):
            for each in running.values():
                next(each)
        turns = [{way: seconds(each) for way, each in running.items()} for _ in range(steps)]
    return {
        way: {
            "milliseconds": 1000 * statistics.median(turn[way] for turn in turns),
            "ratio": statistics.median(turn[way] / turn[PLAIN] for turn in turns),
        }
        for way in chosen
    }


def job_of(way: str, model: str, records: Path, data: Data, common: dict[str, Any]) -> Job:
    """A run that would learn so."""
    keywords = {"model": model, "epochs": 3, "batch_size": BATCH, "device": "cpu", **common}
    if way == PLAIN:
        return teach_job(make_recipe(TeachRecipe, None, keywords), None, data=data)
    keywords |= {"teacher": str(records / way), "loss": {"name": "kd", "temperature": 4.0}}
    return distill_job(make_recipe(DistillRecipe, None, keywords), None, data=data)


def stepping(job: Job) -> Iterator[None]:
    """The steps of a run, one at a time."""
    heldout = Evaluator(job.cohort, "heldout", job.accelerator, distribution=job.distribution)
    return Loop(job.task, job.batches, job.recipe, heldout, job.accelerator).steps()


def seconds(steps: Iterator[None]) -> float:
    """Of the processor, that the next step takes."""
    started = time.process_time()
    next(steps)
    return time.process_time() - started


def images(samples: int) -> Data:
    """Random bytes as images, and labels in turn."""
    generator = torch.Generator().manual_seed(0)
    normalize = Normalize(divide_by=255.0, mean=(0.5,) * 3, std=(0.25,) * 3)

    def part(count: int) -> ArrayDataset:
        pixels: Tensor = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        return ArrayDataset(pixels, torch.arange(count) % CLASSES, transform=normalize)

    return Data(part(samples), part(HELDOUT), tuple(map(str, range(CLASSES))), normalize.as_json())


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, a row a model and way."""
    rows = [
        [model, way, f"{each['milliseconds']:.1f}", f"{each['ratio']:.3f}"]
        for model, ways in found.items()
        for way, each in ways.items()
    ]
    return markdown_table(["model", "learns from", "ms a step", "times labels alone"], rows, left=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "cnn"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS))
    args = parser.parse_args()
    print(table({model: cost(model, args.steps, ways=args.ways) for model in args.models}))


if __name__ == "__main__":
    main()
