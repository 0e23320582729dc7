"""Image networks end to end, augmentation on: what teachers, losses and assess's forecasts are worth to students.

python benchmarks/arena.py --size cpu --data-dir DATA --out runs/arena-cpu --processes 2   # two CPU cores
python benchmarks/arena.py --size gpu --data-dir DATA --out runs/arena-gpu --budget 480    # eight minutes of a GPU
python benchmarks/arena.py --size full --data-dir DATA --out runs/arena-full               # the whole table
python benchmarks/arena.py --size catalogue --data-dir DATA --out runs/catalogue --processes 2   # with features

DATA holds what benchmarks/images.py reads. Every seed has its own split, teachers and students; every run is a run
folder, so the same command, stopped or out of its budget, goes on, and --seeds adds others; the tables are of all seeds
that are complete. Losses are used with their papers' settings, nothing is tuned, and all objectives learn at one rate.
What is chosen is chosen by held-out labels; the test images are scored once, at the end of each run.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from arena_report import STOPPED, Layout, alone_name, collect, complete, markdown, students_of, write_picture
from foretold.command import command
from images import cifar10_data, tinyimagenet_data
from known_truth import MIXTURES, sample
from pieces import Clock, OutOfTime, side_by_side
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.interrupts import Interrupted
from preceptor.names import names
from preceptor.recipe import DistillRecipe
from preceptor.recipe.keywords import make_recipe
from preceptor.recipe.published import published_of
from preceptor.runs import circumstances
from preceptor.runs.files import finite, write_text
from preceptor.study.teachers import choose_teacher
from preceptor.training import distill, distill_together, teach

# What is trained. A run that averages its weights keeps the best of these averages, so that EMA is a run of its own.
RUNS: dict[str, dict[str, Any]] = {
    "ce": {"objective": "cross_entropy"},
    "ema": {"objective": "cross_entropy", "average": {"kind": "ema", "decay": 0.99}},
    "twin": {"objective": "cross_entropy", "streams": {"initialization": 1000, "order": 1000, "augmentation": 1000}},
    "smoothing": {"objective": {"name": "label_smoothing", "smoothing": 0.1}},
    "mse": {"objective": "mse"},
    "soteacher": {"objective": "SoTeacher"},
    "tolerant": {"objective": {"name": "tolerant", "eta": 0.4}},
}
TEACHERS: dict[str, tuple[str, ...]] = {
    "ce": ("ce",),
    "ce-stopped": ("ce:best",),
    "smoothing": ("smoothing",),
    "mse": ("mse",),
    "soteacher": ("soteacher",),
    "tolerant": ("tolerant",),
    "ema": ("ema:average",),
    "two": ("ce", "twin"),
    "auto": (),  # chosen for each loss, among the others but those that were stopped, by the very labels that judge
}
HALF = {"ce_weight": 0.1, "distill_weight": 0.9}


def losses(gamma: float, ttm: float, wttm: float) -> dict[str, dict[str, Any]]:
    """The losses with the weights of their papers; TTM's exponent and weights are of the pair of networks."""
    return {
        "kd": {"loss": {"name": "kd", "temperature": 4.0}, **HALF},
        "wttm": {"loss": {"name": "wttm", "temperature": 1 / gamma}, "ce_weight": 1.0, "distill_weight": wttm},
        "ptloss": {
            "loss": {"name": "ptloss", "coefficients": [1.0]},
            **HALF,
        },  # not from a paper: as in our other tables
        "dkd": {"loss": {"name": "dkd", "beta": 8.0}, "ce_weight": 1.0, "distill_weight": 1.0},
        "dist": {"loss": {"name": "dist"}, "ce_weight": 1.0, "distill_weight": 2.0},
        "ttm": {"loss": {"name": "ttm", "temperature": 1 / gamma}, "ce_weight": 1.0, "distill_weight": ttm},
    }


R56_R20, R32X4_R8X4 = losses(0.3, 7.0, 1.5), losses(0.1, 100.0, 3.0)  # appendix of arXiv 2402.11148
WRN40_WRN16, R32X4_SHV2 = losses(0.1, 101.0, 4.0), losses(0.4, 40.0, 16.0)
FEATURES: dict[str, dict[str, Any]] = {name: {"loss": name} for name in names("loss") if published_of(name) is not None}


def with_features(settings: dict[str, dict[str, Any]], crd: tuple[float, float], itrd: tuple[float, float]) -> Any:
    """Losses, those that look into the models with their published weights, and the sums of WTTM's paper.

    Args:
        settings: of the losses of outputs.
        crd, itrd: the exponent and the weight of WTTM beside each, of the pair.
    """
    sums = {
        f"wttm+{name}": {"loss": [{"name": "wttm", "temperature": 1 / gamma, "weight": weight}, name]}
        for name, (gamma, weight) in {"CRD": crd, "ITRD": itrd}.items()
    }
    return settings | FEATURES | sums


CATALOGUE = (
    "kd", "wttm", "ttm", "ptloss", "dkd", "dist", "FitNet", "AT", "SP", "CC", "VID", "RKD", "PKT", "FT", "NST", "CRD",
    "ReviewKD", "OFD", "ITRD", "SRRL", "wttm+CRD", "wttm+ITRD",
)  # fmt: skip


class Size(NamedTuple):
    """One form of the table.

    Args:
        longer: epochs of the longer-trained student for each epoch of the others: so that it costs, in FLOPs, as much
            as a teacher and its student.
        settings: of each loss.
        padding: of the random crops, in pixels.
    """

    data: Callable[[Path, Path], Data]
    teacher: Any
    student: Any
    heldout: int
    teachers: tuple[str, ...]
    losses: tuple[str, ...]
    settings: dict[str, dict[str, Any]]
    seeds: int
    longer: int
    lr: float
    training: dict[str, Any]
    padding: int = 4

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The losses with their settings."""
        return {name: self.settings[name] for name in self.losses}

    def recipe(self, model: Any, seed: int, **changes: Any) -> dict[str, Any]:
        """What every run of a seed has in common."""
        epochs = changes.pop("epochs", self.training["epochs"])
        return {
            "model": model,
            "split": {"heldout": self.heldout},
            "augmentation": {"name": "crop_flip", "padding": self.padding},
            "optimizer": {"name": "sgd", "lr": self.lr, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            "schedule": {"name": "one_cycle", "warmup_epochs": epochs / 5},
            "training": self.training | {"epochs": epochs, "checkpoint_epochs": max(1, epochs // 4)},
            "seed": seed,
        } | changes


def first_10000(folder: Path, cache: Path) -> Data:
    """CIFAR-10's first 10,000 training images, and its test images."""
    data = cifar10_data(folder, cache)
    train: Any = data.train
    few = ArrayDataset(train.inputs[:10_000], train.labels[:10_000], num_classes=10, transform=train.transform)
    return replace(data, train=few)


def tiny(_folder: Path, _cache: Path) -> Data:
    """Points of a mixture as images of 5 x 6 pixels."""
    data, _ = sample(MIXTURES["four-classes"], 400)
    points: Any = data.train
    images = points.inputs.view(-1, 1, 5, 6)
    return Data(
        ArrayDataset(images[:300], points.labels[:300]),
        ArrayDataset(images[300:], points.labels[300:]),
        data.class_names,
    )


def pair(teacher: str, student: str, settings: dict[str, dict[str, Any]], lr: float) -> Size:
    """A table of the catalogue at real size: in pieces of so many seconds (--budget), teacher after teacher."""
    return Size(
        data=tinyimagenet_data, teacher=teacher, student=student, heldout=5000, seeds=3, longer=9, lr=lr,
        teachers=("ce", "ce-stopped", "mse", "soteacher", "auto"), losses=CATALOGUE, settings=settings,
        training=FAST | {"epochs": 60},
    )  # fmt: skip


FAST = {"batch_size": 512, "precision": "auto", "compile": "auto"}
CNN = {"name": "cnn", "widths": [4], "hidden": 8}
SIZES = {
    "cpu": Size(
        data=first_10000, teacher="resnet20", student="resnet8", heldout=1000, seeds=2, longer=5, lr=0.1,
        teachers=("ce", "ce-stopped", "smoothing", "mse"), losses=("kd", "wttm", "ptloss"), settings=R56_R20,
        training={"epochs": 10, "batch_size": 64, "precision": "auto"},
    ),
    "gpu": Size(
        data=tinyimagenet_data, teacher="resnet32x4", student="resnet8x4", heldout=5000, seeds=2, longer=9, lr=0.4,
        teachers=("ce", "ce-stopped", "mse", "smoothing"), losses=("kd", "wttm", "ptloss", "dkd"), settings=R32X4_R8X4,
        training=FAST | {"epochs": 10},
    ),
    "full": Size(
        data=tinyimagenet_data, teacher="resnet32x4", student="resnet8x4", heldout=5000, seeds=5, longer=9, lr=0.4,
        teachers=tuple(TEACHERS), losses=tuple(R32X4_R8X4), settings=R32X4_R8X4,
        training=FAST | {"epochs": 60},
    ),
    "catalogue": Size(
        data=first_10000, teacher="resnet20", student="resnet8", heldout=1000, seeds=2, longer=5, lr=0.1,
        teachers=("ce", "mse", "soteacher"), losses=("kd", "wttm", "FitNet", "AT", "SP", "CRD"),
        settings=R56_R20 | FEATURES, training={"epochs": 6, "batch_size": 64, "precision": "auto"},
    ),
    "catalogue-wrn": pair("wrn_40_2", "wrn_16_2", with_features(WRN40_WRN16, (0.1, 4.0), (0.3, 6.0)), 0.4),
    "catalogue-resnet": pair("resnet32x4", "resnet8x4", with_features(R32X4_R8X4, (0.2, 4.0), (0.1, 1.5)), 0.4),
    "catalogue-unlike": pair("resnet32x4", "shufflenet_v2", with_features(R32X4_SHV2, (0.4, 12.0), (0.4, 0.8)), 0.1),
    "quick": Size(
        data=tiny, teacher=CNN, student=CNN | {"widths": [2]}, heldout=60, seeds=2, longer=2, lr=0.1,
        teachers=("ce", "ce-stopped", "mse", "ema", "two", "auto"), losses=("kd", "ttm"), settings=R56_R20 | FEATURES,
        training={"epochs": 2, "batch_size": 60}, padding=1,
    ),
}  # fmt: skip


class Arena:
    """The runs of one size in a folder: ``seed-S/teachers/RUN``, ``seed-S/students/TEACHER/LOSS``, `alone-EPOCHS`."""

    def __init__(self, size: Size, data: Data, out: Path, clock: Clock, *, progress: bool) -> None:
        self.size, self.data, self.out, self.clock = size, data, out, clock
        self.progress = progress

    def seed(self, seed: int) -> None:
        """All runs of a seed that are not complete yet."""
        self.alone(seed, self.size.training["epochs"])
        for teacher in self.size.teachers:
            for part in TEACHERS[teacher]:
                self.teacher(part.partition(":")[0], seed)
            if teacher == "auto":
                for loss in self.size.losses:
                    self.chosen(loss, seed)
            else:
                self.students(teacher, seed)
        self.alone(seed, self.size.longer * self.size.training["epochs"])

    def folder(self, seed: int) -> Path:
        """Where a seed's runs are."""
        return self.out / f"seed-{seed}"

    def teacher(self, name: str, seed: int) -> None:
        """Train one teacher."""
        folder = self.folder(seed) / "teachers" / name
        if not complete(folder):
            with self.clock.run(f"teacher {name}"):
                recipe = self.size.recipe(self.size.teacher, seed, **RUNS[name])
                teach(recipe, folder, data=self.data, progress=self.progress)

    def alone(self, seed: int, epochs: int) -> None:
        """Train the student from the labels alone."""
        folder, usual = self.folder(seed) / alone_name(epochs), self.size.training["epochs"]
        if not complete(folder):
            guess = epochs / usual * self.clock.longest.get(f"student alone, {usual} epochs", 0.0)
            with self.clock.run(f"student alone, {epochs} epochs", guess):
                recipe = self.size.recipe(self.size.student, seed, epochs=epochs)
                teach(recipe, folder, data=self.data, progress=self.progress)

    def students(self, teacher: str, seed: int) -> None:
        """Train a teacher's students, one a loss, side by side."""
        teacher = students_of(self.folder(seed), teacher)
        folder = self.folder(seed) / "students" / teacher
        if all(complete(folder / loss) for loss in self.size.losses):
            return
        parts = [str(self.folder(seed) / "teachers" / part) for part in TEACHERS[teacher]]
        with self.clock.run(f"students of {teacher}"):
            recipe = make_recipe(DistillRecipe, self.size.recipe(self.size.student, seed), {})
            distill_together(recipe, self.size.tasks, folder, teacher=parts, data=self.data, progress=self.progress)

    def chosen(self, loss: str, seed: int) -> None:
        """Train a student of what ``auto`` chooses for its loss."""
        folder = self.folder(seed) / "students" / "auto" / loss
        if complete(folder):
            return
        with self.clock.run("student of auto"):
            keywords = self.size.recipe(self.size.student, seed) | self.size.settings[loss]
            parts = {part for name in self.size.teachers if name != STOPPED for part in TEACHERS[name]}
            runs = [str(self.folder(seed) / "teachers" / part) for part in sorted(parts)]
            recipe, choice = choose_teacher(make_recipe(DistillRecipe, keywords, {}), runs, data=self.data)
            distill(recipe, folder, data=self.data, choice=choice.to_dict(), progress=self.progress)


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained yet and the budget allows; write `arena.json`, `arena.md` and `arena.png`."""
    arguments = parsed(given)
    size = SIZES["quick" if arguments.quick else arguments.size]
    size = size._replace(
        teachers=tuple(arguments.teachers or size.teachers),
        losses=tuple(arguments.losses or size.losses),
        training=size.training | {"device": arguments.device},
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(size.seeds)) if arguments.seeds is None else arguments.seeds
    if arguments.processes > 1:
        words = sys.argv[1:] if given is None else given
        side_by_side(__file__, "--seeds", list(map(str, seeds)), arguments.processes, words)
    else:
        train(size, seeds, arguments)
    report(size, arguments)


def train(size: Size, seeds: Sequence[int], arguments: argparse.Namespace) -> None:
    """The runs of some seeds, as far as the budget goes."""
    clock = Clock(arguments.budget, arguments.out / "times.json")
    data = size.data(arguments.data_dir, arguments.out / "images")
    arena = Arena(size, data, arguments.out, clock, progress=sys.stderr.isatty())
    try:
        for seed in seeds:
            arena.seed(seed)
    except Interrupted as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
    except OutOfTime:
        print("the budget allows no further run; the same command goes on", file=sys.stderr)


def report(size: Size, arguments: argparse.Namespace) -> None:
    """Write what all runs in the folder say, and print it."""
    out = arguments.out
    layout = Layout(
        {name: TEACHERS[name] for name in size.teachers},
        size.losses,
        epochs=size.training["epochs"],
        longer=size.longer * size.training["epochs"],
    )
    result = collect(out, layout) | {
        "size": "quick" if arguments.quick else arguments.size,
        "recipe": {"teacher": size.teacher, "student": size.student, "losses": size.tasks, "longer": size.longer},
        "command": command(),
        "circumstances": circumstances("cuda" if arguments.device == "auto" and torch.cuda.is_available() else "cpu"),
    }
    write_text(out / "arena.json", json.dumps(finite(result), indent=2) + "\n")
    table = markdown(result)
    write_text(out / "arena.md", table)
    write_picture(result, out / "arena.png")
    print(table)


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[name for name in SIZES if name != "quick"], default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--data-dir", type=Path, help="folder with the files of benchmarks/images.py")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no run that would not end in time")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default as many as the size says, from 0")
    parser.add_argument("--processes", type=int, default=1, help="share the seeds and the cores among so many")
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, help="by default those of the size")
    parser.add_argument("--losses", nargs="+", choices=[*R56_R20, *FEATURES], help="by default those of the size")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--quick", action="store_true", help="seconds, on data made on the spot; measures nothing")
    arguments = parser.parse_args(given)
    if arguments.data_dir is None and not arguments.quick:
        parser.error("--data-dir must be given, or --quick for data made on the spot")
    return arguments


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
