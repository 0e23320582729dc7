"""The 13 pairs of CIFAR-100's distillation tables: each teacher once, a student of each pair, beside the published.

python benchmarks/pairs.py --data-dir DATA --out runs/pairs                             # 240 epochs, as published
python benchmarks/pairs.py --data-dir DATA --out runs/fast --form fast                  # 30 epochs, batch 512
python benchmarks/pairs.py --data-dir DATA --out runs/pairs --pairs resnet32x4/resnet8x4 --seeds 0 1 2 --alone

Stopped, the same command goes on. KEY=VALUE behind it changes a key of all recipes, teachers' and students':
training.precision=bf16, or other data: data={name: "images:tinyimagenet_data", folder: FOLDER}. With `--loss` students
learn by another loss: --loss "{loss: {name: wttm, temperature: 10}, ce_weight: 1.0, distill_weight: 3.0}".

Unlike the published recipe, 5,000 training images are held out; as there, the last epoch is scored. The fast form is
the published one at eight times the batch and the rate and an eighth of the epochs; the rate of MobileNetV2, and that
those of the ResNets stay, is what benchmarks/rates.py has chosen on held-out images.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from preceptor.recipe import DistillRecipe, TeachRecipe, find_recipe, load, text_override
from preceptor.training import distill, teach


class Pair(NamedTuple):
    """A teacher and a student, and the test accuracies in per cent that Tian et al. (2020) print."""

    teacher: str
    student: str
    teacher_alone: float
    student_alone: float
    kd: float

    @property
    def name(self) -> str:
        """As an argument."""
        return f"{self.teacher}/{self.student}"


PAIRS = [
    Pair("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92),
    Pair("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54),
    Pair("resnet56", "resnet20", 72.34, 69.06, 70.66),
    Pair("resnet110", "resnet20", 74.31, 69.06, 70.67),
    Pair("resnet110", "resnet32", 74.31, 71.14, 73.08),
    Pair("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33),
    Pair("vgg13", "vgg8", 74.64, 70.36, 72.98),
    Pair("vgg13", "mobilenet_v2", 74.64, 64.60, 67.37),
    Pair("resnet50", "mobilenet_v2", 79.34, 64.60, 67.35),
    Pair("resnet50", "vgg8", 79.34, 70.36, 73.81),
    Pair("resnet32x4", "shufflenet_v1", 79.42, 70.50, 74.07),
    Pair("resnet32x4", "shufflenet_v2", 79.42, 71.82, 74.45),
    Pair("wrn_40_2", "shufflenet_v1", 75.61, 70.50, 74.83),
]
FORMS = {"long": "cifar100", "fast": "cifar100-fast"}
LIGHT = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
RATES = {
    "long": {"most": 0.05, **dict.fromkeys(LIGHT, 0.01)},
    "fast": {"most": 0.4, **dict.fromkeys(LIGHT, 0.08), "mobilenet_v2": 0.32},
}
KD = {"loss": {"name": "kd", "temperature": 4.0}, "ce_weight": 0.1, "distill_weight": 0.9}


def rate_of(model: str, form: str) -> float:
    """The learning rate of a model in a form."""
    return RATES[form].get(model, RATES[form]["most"])


def settings(model: str, form: str, seed: int) -> list[str]:
    """What a recipe of the form says of one model and seed."""
    return [f"model={model}", f"optimizer.lr={rate_of(model, form)}", f"seed={seed}"]


def teacher_recipe(model: str, form: str = "long", seed: int = 0, overrides: Sequence[str] = ()) -> TeachRecipe:
    """A model's training from labels: a teacher's, or a student's alone."""
    return load(TeachRecipe, find_recipe(f"teach-{FORMS[form]}"), [*settings(model, form, seed), *overrides])


def student_recipe(
    pair: Pair, form: str = "long", seed: int = 0, overrides: Sequence[str] = (), loss: dict[str, Any] | None = None
) -> DistillRecipe:
    """A student's training from its teacher, by KD or another loss with its weights."""
    said = [f"{key}={json.dumps(value)}" for key, value in (loss or KD).items()]
    return load(
        DistillRecipe, find_recipe(f"distill-{FORMS[form]}"), [*settings(pair.student, form, seed), *said, *overrides]
    )


def run(pair: Pair, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The test accuracies in per cent of one pair under one seed."""

    def folder(name: str) -> Path:
        return arguments.out / f"{name}-{seed}"

    def alone(model: str) -> float:
        recipe = teacher_recipe(model, arguments.form, seed, arguments.overrides)
        return _accuracy(teach(recipe, folder(f"teacher-{model}"), progress=True))

    found = {"pair": pair.name, "seed": seed, "teacher": alone(pair.teacher)}
    if arguments.alone:
        found["student alone"] = alone(pair.student)
    teacher = text_override("teacher", folder(f"teacher-{pair.teacher}"))
    recipe = student_recipe(pair, arguments.form, seed, [*arguments.overrides, teacher], arguments.loss)
    found["student"] = _accuracy(distill(recipe, folder(f"student-{pair.student}-of-{pair.teacher}"), progress=True))
    return found


def _accuracy(result: dict[str, Any]) -> float:
    return 100 * result["test"]["last"]["accuracy"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the mean over seeds of each pair, beside the published numbers."""
    lines = [
        "| teacher/student | seeds | teacher | published | student alone | published | student | published (KD) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for pair in PAIRS:
        own = [row for row in rows if row["pair"] == pair.name]
        if own:
            published = {"teacher": pair.teacher_alone, "student alone": pair.student_alone, "student": pair.kd}
            cells = [f"{_mean(own, key)} | {value:.2f}" for key, value in published.items()]
            lines.append(f"| {pair.name} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{sum(values) / len(values):.2f}" if values else ""


def main(given: Sequence[str] | None = None) -> None:
    """Train what is asked for, and write `pairs.json` and `pairs.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of all recipes")
    parser.add_argument("--data-dir", help="where CIFAR-100 is")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--form", choices=FORMS, default="long", help="240 epochs, or 30")
    parser.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], metavar="TEACHER/STUDENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--loss", type=yaml.safe_load, help="keys of a student's recipe: loss and its weights")
    parser.add_argument("--alone", action="store_true", help="train students from labels alone, too")
    arguments = parser.parse_intermixed_args(given)
    if arguments.data_dir:
        arguments.overrides.insert(0, text_override("data.data_dir", arguments.data_dir))
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for pair in PAIRS:
            if arguments.pairs is None or pair.name in arguments.pairs:
                rows.append(run(pair, seed, arguments))
                (arguments.out / "pairs.json").write_text(json.dumps(rows, indent=2) + "\n")
                (arguments.out / "pairs.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
