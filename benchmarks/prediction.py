"""What the three prediction benchmarks share: their command line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.recipe import load
from preceptor.study.prediction.recipe import Prediction
from preceptor.study.prediction.report import markdown, write_picture
from preceptor.study.prediction.run import Truth, run_prediction
from preceptor.study.prediction.tune import tune_rates
from preceptor.training.files import write_text

QUICK = Path(__file__).parent / "recipes" / "quick.yaml"
RATES, TUNING_SEEDS = (0.00003, 0.0001, 0.0003, 0.001, 0.003), (100, 101)


@dataclass(frozen=True)
class Case:
    """One study of a benchmark: its name, its recipe and changes to it, how to get its data.

    `student_data` is another form of the data for students; `teachers_of` names the case whose teachers it shares;
    `flag` is what the command line needs for this case; `rates` is the grid of --tune.
    """

    name: str
    recipe: Path
    data: Callable[[], tuple[Data, Truth]]
    overrides: Sequence[str] = ()
    student_data: Callable[[], Data] | None = None
    teachers_of: str | None = None
    flag: str = ""
    rates: Sequence[float] = RATES


def main(
    cases: Callable[[argparse.Namespace], list[Case]],
    command: str,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Run every case that is not done yet, and write its table and picture; killed, the same command goes on."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--quick", action="store_true", help="seconds, on data made on the spot; measures nothing")
    parser.add_argument("--tune", action="store_true", help="choose the learning rates and stop")
    parser.add_argument("--only", help="one case by name")
    if add_options:
        add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # stacks of small networks are fastest on one
    try:
        for case in cases(arguments):
            if arguments.only in (None, case.name):
                run(case, arguments, command)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(case: Case, arguments: argparse.Namespace, command: str) -> None:
    """One study: its runs, its table, its picture."""

    def say(text: str) -> None:
        print(f"{case.name}: {text}", file=sys.stderr, flush=True)

    study = load(Prediction, QUICK if arguments.quick else case.recipe, case.overrides)
    data, truth = case.data()
    if arguments.tune:
        if case.teachers_of is None:
            tune_rates(study, data, case.rates, TUNING_SEEDS, arguments.out / "tune" / case.name, say=print)
        return
    folder = arguments.out / case.name
    shown = command + case.flag + (" --quick" if arguments.quick else "")
    result = run_prediction(
        study,
        data,
        truth,
        folder,
        command=shown,
        student_data=case.student_data() if case.student_data else None,
        teachers=arguments.out / case.teachers_of / "teachers" if case.teachers_of else None,
        progress=sys.stderr.isatty(),
        say=say,
    )
    table = markdown(result)
    write_text(folder / "table.md", table)
    write_picture(result, folder / "picture.png")
    print(f"## {case.name}\n\n{table}")
