"""The command line that the three prediction benchmarks share."""

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foretold.rates import tune_rates
from foretold.recipe import PredictionStudy
from foretold.report import markdown, write_picture
from foretold.run import run_prediction
from foretold.truth import Truth
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.recipe import load
from preceptor.runs.files import atomic_path, write_text

QUICK = Path(__file__).parents[1] / "recipes" / "quick.yaml"
RATES, TUNING_SEEDS = (0.00003, 0.0001, 0.0003, 0.001, 0.003), (100, 101)


@dataclass(frozen=True)
class Case:
    """One study of a benchmark: its name, its recipe and changes to it, how to get its data.

    `student_data` is another form of the data for students; `teachers_of` names the case whose teachers it shares;
    `rates` is the grid of --tune.
    """

    name: str
    recipe: Path
    data: Callable[[], tuple[Data, Truth]]
    overrides: Sequence[str] = ()
    student_data: Callable[[], Data] | None = None
    teachers_of: str | None = None
    rates: Sequence[float] = RATES


def main(
    cases: Callable[[argparse.Namespace], list[Case]],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Run every case that is not done yet, and write its table and picture; killed, the same command goes on."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--quick", action="store_true", help="seconds, on data made on the spot; measures nothing")
    parser.add_argument("--tune", action="store_true", help="choose the learning rates and stop")
    parser.add_argument("--only", help="one case by name")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe, key.key=value")
    if add_options:
        add_options(parser)
    arguments = parser.parse_args()
    missing = [f"--{name}" for name in ("data", "counts") if vars(arguments).get(name, "") is None]
    if missing and not arguments.quick:
        parser.error(f"{' and '.join(missing)} must be given, or --quick for data made on the spot")
    torch.set_num_threads(1)  # stacks of small networks are fastest on one
    try:
        for case in cases(arguments):
            if arguments.only in (None, case.name):
                run(case, arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(case: Case, arguments: argparse.Namespace) -> None:
    """One study: its runs, its table, its picture."""

    def say(text: str) -> None:
        print(f"{case.name}: {text}", file=sys.stderr, flush=True)

    study = load(PredictionStudy, QUICK if arguments.quick else case.recipe, [*case.overrides, *arguments.overrides])
    data, truth = case.data()
    if arguments.tune:
        if case.teachers_of is None:
            tune_rates(study, data, case.rates, TUNING_SEEDS, arguments.out / "tune" / case.name, say=print)
        return
    folder = arguments.out / case.name
    result = run_prediction(
        study,
        data,
        truth,
        folder,
        command=command(),
        student_data=case.student_data() if case.student_data else None,
        teachers=arguments.out / case.teachers_of / "teachers" if case.teachers_of else None,
        progress=sys.stderr.isatty(),
        say=say,
    )
    table = markdown(result)
    write_text(folder / "table.md", table)
    write_picture(result, folder / "picture.png")
    print(f"## {case.name}\n\n{table}")


def command() -> str:
    """The command line that this is, without the folders of this machine."""
    script, *words = sys.argv
    shown = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])


def features(out: Path, data: Path, model: str, compute: Callable[[], Tensor]) -> Tensor:
    """What a model makes of the samples of a file, (N, D); computed first if it is not in the folder `out` yet."""
    digest = hashlib.sha256(data.read_bytes() + model.encode()).hexdigest()[:8]
    cached = out / f"features-{digest}.npz"
    if cached.exists():
        return torch.from_numpy(np.load(cached)["features"])
    found = compute()
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(cached) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=found.numpy())
    return found
