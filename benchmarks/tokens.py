"""Language models that teach smaller ones, on a text so short that they overfit: which of them is worth most?

python benchmarks/tokens.py --data-dir DATA --out runs/tokens --processes 2                # two CPU cores
python benchmarks/tokens.py --size gpu --data-dir DATA --out runs/tokens-gpu --budget 480  # in pieces

DATA holds tinyshakespeare.txt.gz, Tiny Shakespeare as it is published. A byte is a token; the last twentieth of the
text is the test set, the one before it is held out, and models learn from the beginning. Teachers are small Llamas,
trained until they are worse on held-out text; students are smaller ones, and learn from records of these teachers.
Every method, labels alone among them, has a grid of three settings; one is chosen by the held-out NLL of the first
seed's students (of the teacher's best epoch). Of a student the epoch of the best held-out NLL is scored on the test
text, and the last one beside it. Every run is a run folder: the same command, stopped or out of its budget, goes on.
"""

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pieces import Clock, OutOfTime, command_line, in_phases, main_of, parsed, write_tables
from preceptor.runs.files import finite, remove, write_text
from preceptor.training import distill, record, teach
from tokens_report import collect, complete, markdown, of_setting, worth

# What a teacher is called that students learn from; {own} and {next} are the folders of this seed's teachers and of the
# next one's.
TEACHERS = {
    "early": "{own}/ce:epoch-{early}",
    "last": "{own}/ce",
    "best": "{own}/ce:best",
    "calibrated": "{own}/ce:calibrated",
    "two": "{own}/ce+{next}/ce",
    "mse": "{own}/mse",
    "tolerant": "{own}/tolerant",
}
TUNED_WITH = "best"
# At T = 1 the gradients of kd, ttm and wttm are one, so that ttm and wttm begin above it.
GRIDS: dict[str, tuple[float, ...]] = {
    "ce": (0.01, 0.1, 0.3),
    "smoothing": (0.02, 0.05, 0.1),
    "kd": (1.0, 1.25, 1.6),
    "wttm": (1.25, 1.6, 2.0),
    "ttm": (1.25, 1.6, 2.0),
    "reverse_kl": (1.0, 1.25, 1.6),
    "ptloss": (0.5, 1.0, 2.0),
}
ALONE = ("ce", "smoothing")


class Size(NamedTuple):
    """One form of the tables.

    Args:
        share: of the text that models learn from, from its beginning.
        epochs: of a teacher, and of a student.
        lr: likewise.
        teachers: which of `TEACHERS`.
        losses: of the students, which of `GRIDS`.
        settings: how many of each grid.
    """

    share: float
    length: int
    document_bytes: int
    teacher: dict[str, Any]
    student: dict[str, Any]
    epochs: tuple[int, int]
    lr: tuple[float, float]
    teachers: tuple[str, ...]
    losses: tuple[str, ...]
    seeds: int
    training: dict[str, Any]
    settings: int = 3

    @property
    def grids(self) -> dict[str, tuple[float, ...]]:
        """The settings of each method that is tried."""
        return {name: GRIDS[name][: self.settings] for name in (*ALONE, *self.losses)}

    @property
    def runs(self) -> list[str]:
        """The trainings that the teachers are made of; the fine-tuned one comes after what it begins with."""
        return ["ce", *(name for name in ("mse", "tolerant") if name in self.teachers)]

    @property
    def early(self) -> int:
        """The epoch after which the early teacher stops."""
        return max(1, self.epochs[0] // 4)


LLAMA = {"name": "causal_lm"}
SIZES = {
    "cpu": Size(
        share=0.1, length=128, document_bytes=1024,
        teacher=LLAMA | {"width": 128, "depth": 3, "heads": 4}, student=LLAMA | {"width": 64, "depth": 2, "heads": 2},
        epochs=(28, 8), lr=(0.003, 0.004), teachers=("last", "best", "calibrated", "two"), losses=("kd", "wttm"),
        seeds=3, training={"batch_size": 16},
    ),
    "gpu": Size(
        share=0.9, length=128, document_bytes=1024,
        teacher=LLAMA | {"width": 128, "depth": 4, "heads": 4}, student=LLAMA | {"width": 64, "depth": 2, "heads": 2},
        epochs=(80, 20), lr=(0.003, 0.004), teachers=tuple(TEACHERS), seeds=5,
        losses=("kd", "wttm", "ttm", "reverse_kl", "ptloss"),
        training={"batch_size": 64, "precision": "auto", "compile": "auto"},
    ),
    "quick": Size(
        share=0.8, length=16, document_bytes=64,
        teacher=LLAMA | {"width": 16, "depth": 1, "heads": 2}, student=LLAMA | {"width": 8, "depth": 1, "heads": 1},
        epochs=(2, 1), lr=(0.01, 0.01), teachers=("last", TUNED_WITH, "calibrated", "two", "mse"), seeds=2,
        losses=("wttm",), settings=2, training={"batch_size": 32},
    ),
}  # fmt: skip


class Tokens:
    """The runs of one size in a folder: ``seed-S/teachers/RUN``, ``records/TEACHER``, ``students/TEACHER/LOSS-SETTING``
    and ``alone/METHOD-SETTING``.
    """

    def __init__(self, size: Size, out: Path, clock: Clock) -> None:
        self.size, self.out, self.clock = size, out, clock
        self.progress = sys.stderr.isatty()

    def part(self, name: str) -> None:
        """All runs of a part that are not complete yet.

        Args:
            name: one of `parts`.
        """
        what, _, rest = name.partition("/")
        if what == "teachers":
            self.teachers(int(rest))
        elif what == "grid":
            for method in ALONE if rest == "alone" else [rest]:
                for value in self.size.grids[method]:
                    self.student(0, TUNED_WITH, method, value)
        elif what == "alone":
            self.alone(int(rest))
        else:
            seed, _, teacher = rest.partition("/")
            self.students(int(seed), teacher)

    def teachers(self, seed: int) -> None:
        """Train a seed's teachers; write down what that of the grids says, which may be read by several at once."""
        for run in self.size.runs:
            folder = self.folder(seed) / "teachers" / run
            if not complete(folder):
                with self.clock.run(f"teacher {run}"):
                    teach(self.recipe(seed, 0) | self.of_teacher(run, seed), folder, progress=self.progress)
        if seed == 0 and not all(complete(run) for loss in self.size.losses for run in self.grid(loss).values()):
            self.recorded(seed, TUNED_WITH)

    def of_teacher(self, run: str, seed: int) -> dict[str, Any]:
        """What the recipe of a teacher has of its own."""
        training = self.size.training | {"clip_norm": 1.0, "select": "nll", "keep": "all"}
        kept = {"calibrate": True, "training": training | {"epochs": self.size.epochs[0]}}
        kept["training"]["checkpoint_epochs"] = self.size.early
        if run != "mse":
            return kept | {
                "objective": {"name": "tolerant", "eta": 0.5, "k": 10} if run == "tolerant" else "cross_entropy"
            }
        # From scratch its gradient is all but zero: with V tokens 2 / V of cross-entropy's.
        start = str(self.folder(seed) / "teachers" / "ce") + ":best"
        kept["training"]["epochs"] = self.size.early
        return kept | {"objective": "mse", "start": start, "optimizer": self.optimizer(self.size.lr[0] / 10, 0.1)}

    def students(self, seed: int, teacher: str) -> None:
        """Train a teacher's students; its record, of a kilobyte for two tokens, is not needed then."""
        for loss in self.size.losses:
            self.student(seed, teacher, loss, self.chosen(loss))
        remove(self.folder(seed) / "records" / teacher)

    def alone(self, seed: int) -> None:
        """Train a seed's students of the labels alone: with the settings chosen, and for twice the epochs."""
        for method in ALONE:
            self.student(seed, "", method, self.chosen(method))
        self.student(seed, "", "ce", self.chosen("ce"), longer=2)

    def student(self, seed: int, teacher: str, method: str, value: float, *, longer: int = 1) -> None:
        """Train a student, unless it is there."""
        folder = self.place(seed, teacher, method, value, longer=longer)
        if complete(folder):
            return
        recipe = self.recipe(seed, 1, longer=longer)
        if method in ALONE:
            with self.clock.run(f"student alone, {longer}"):
                objective: Any = (
                    {"name": "label_smoothing", "smoothing": value} if method == "smoothing" else "cross_entropy"
                )
                decay = {"optimizer": self.optimizer(self.size.lr[1], value)} if method == "ce" else {}
                teach(recipe | {"objective": objective} | decay, folder, progress=self.progress)
            return
        stored = self.recorded(seed, teacher)
        with self.clock.run(f"student {method}"):
            option: dict[str, Any] = {"coefficients": [value]} if method == "ptloss" else {"temperature": value}
            loss = {"loss": {"name": method, **option}, "ce_weight": 0.1, "distill_weight": 0.9}
            distill(recipe | loss, folder, teacher=str(stored), progress=self.progress)

    def recorded(self, seed: int, teacher: str) -> Path:
        """The record of a teacher's answers, beside which its scores stand once it is complete."""
        folder = self.folder(seed) / "records" / teacher
        scores = folder.with_suffix(".json")
        if scores.is_file() and folder.is_dir():
            return folder
        own, following = (self.folder(each) / "teachers" for each in (seed, (seed + 1) % self.size.seeds))
        for place in [own, following] if teacher == "two" else [own]:
            self.wait_for(place / "ce")
        reference = TEACHERS[teacher].format(own=own, next=following, early=self.size.early)
        with self.clock.run("record"):
            recipe = self.recipe(seed, 1)
            record(reference, folder, recipe=recipe, form="dense", dtype="float16", progress=self.progress)
            grids = [self.size.grids[loss] for loss in self.size.losses if loss in ("ttm", "wttm")]
            found = worth(reference, recipe, tuple(sorted({value for grid in grids for value in grid})))
            write_text(scores, json.dumps(finite(found)) + "\n")
        return folder

    def chosen(self, method: str) -> float:
        """The setting of the best held-out NLL at the first seed, which must be trained."""
        runs = self.grid(method)
        for run in runs.values():
            self.wait_for(run)
        return min(runs, key=lambda value: of_setting(runs[value]))

    def grid(self, method: str) -> dict[float, Path]:
        """The runs, one a setting, that a setting is chosen of."""
        return {value: self.place(0, TUNED_WITH, method, value) for value in self.size.grids[method]}

    def place(self, seed: int, teacher: str, method: str, value: float, *, longer: int = 1) -> Path:
        """The folder of a student."""
        name = ("longer" if longer > 1 else method) + f"-{value:g}"
        return self.folder(seed) / ("alone" if method in ALONE else f"students/{teacher}") / name

    def folder(self, seed: int) -> Path:
        """Where a seed's runs are."""
        return self.out / f"seed-{seed}"

    def wait_for(self, run: Path) -> None:
        """Stop here if a run that comes before is not complete: its process ran out of time."""
        if not complete(run):
            raise OutOfTime

    def recipe(self, seed: int, whose: int, *, longer: int = 1) -> dict[str, Any]:
        """What all runs of a seed have in common.

        Args:
            whose: 0 a teacher's, 1 a student's.
            longer: for so many times the epochs.
        """
        size, text = self.size, self.out / "text"
        epochs = longer * size.epochs[whose]
        return {
            "data": {
                "name": "tokens", "path": str(text / "train.txt"), "heldout_path": str(text / "heldout.txt"),
                "test_path": str(text / "test.txt"), "length": size.length, "document_bytes": size.document_bytes,
            },
            "model": (size.teacher, size.student)[whose],
            "optimizer": self.optimizer(size.lr[whose], 0.1),
            "schedule": {"name": "cosine", "warmup_epochs": min(1.0, epochs / 10), "final": 0.05},
            "training": size.training | {"epochs": epochs, "clip_norm": 1.0, "select": "nll"},
            "seed": seed,
        }  # fmt: skip

    @staticmethod
    def optimizer(lr: float, decay: float) -> dict[str, Any]:
        """AdamW, which lets norms be."""
        return {"name": "adamw", "lr": lr, "weight_decay": decay, "betas": [0.9, 0.99], "no_decay": ["norms", "biases"]}


def parts(size: Size) -> list[list[str]]:
    """What can be done side by side, of one phase after the other."""
    seeds = range(size.seeds)
    return [
        [*(f"teachers/{seed}" for seed in seeds), "grid/alone"],
        [f"grid/{loss}" for loss in size.losses],
        [*(f"alone/{seed}" for seed in seeds), *(f"students/{s}/{name}" for name in size.teachers for s in seeds)],
    ]


def write_texts(size: Size, folder: Path | None, out: Path) -> None:
    """The three texts, as files that the data set reads: what is learned from, held out and tested on."""
    if folder is None:
        words = np.random.default_rng(0).choice(["to", "be", "or", "not", "that", "is", "the", "question\n"], 700)
        whole = " ".join(words)
    else:
        whole = gzip.decompress((folder / "tinyshakespeare.txt.gz").read_bytes()).decode()
    ends = {"train": (0.0, size.share), "heldout": (0.9, 0.95), "test": (0.95, 1.0)}
    (out / "text").mkdir(parents=True, exist_ok=True)
    for name, (start, end) in ends.items():
        path = out / "text" / f"{name}.txt"
        if not path.is_file():
            write_text(path, whole[int(start * len(whole)) : int(end * len(whole))])


# -- the command -------------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained yet and the budget allows; write `tokens.json` and `tokens.md`."""
    arguments = parsed(command_line(str(__doc__), SIZES, "tinyshakespeare.txt.gz", "teachers/0"), given)
    size, out = SIZES[arguments.size], arguments.out
    size = size._replace(training=size.training | {"device": arguments.device})
    write_texts(size, None if arguments.quick else arguments.data_dir, out)
    in_phases(__file__, parts(size), arguments, given, lambda clock: Tokens(size, out, clock).part)
    if not arguments.parts:
        found = collect(out, size.teachers, size.losses, range(size.seeds), size.grids)
        made = {"size": arguments.size, "recipe": size._asdict(), "grids": size.grids}
        write_tables("tokens", found | made, markdown, out, arguments.device)


if __name__ == "__main__":
    main_of(main)
