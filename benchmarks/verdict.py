"""What the prediction benchmarks say of each paper's claim: paired differences of students, in points of accuracy.

python benchmarks/verdict.py runs/known-truth/toy runs/human-text/features ...
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.assess import Estimate, mean_interval
from preceptor.training.files import read_json


def accuracy(result: Mapping[str, Any], candidate: str, loss: str) -> np.ndarray:
    """Test accuracy of a candidate's students, in percent, one value a seed."""
    return 100 * np.array(result["losses"][loss]["students"][candidate]["accuracy"])


def epochs(result: Mapping[str, Any]) -> list[int]:
    """The epochs that candidates are made of."""
    return sorted(result["recipe"]["teach"]["training"]["checkpoint_epochs"])


def claims(result: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Each claim with its paired differences, one a seed; KD students unless it says otherwise."""
    *_, third, fourth, _, last = epochs(result)

    def better(one: str, other: str, loss: str = "kd") -> np.ndarray:
        return accuracy(result, one, loss) - accuracy(result, other, loss)

    def losses(one: str, other: str) -> np.ndarray:
        every = [accuracy(result, name, one) - accuracy(result, name, other) for name in result["candidates"]]
        return np.mean(every, axis=0)

    yield f"stopping early: CE at {fourth} epochs over {last}", better(f"ce-{fourth}", f"ce-{last}")
    for name, label in (
        ("mse", "MSE"),
        ("soteacher", "SoTeacher"),
        ("tolerant", "tolerant"),
        ("smoothing", "smoothing"),
    ):
        yield f"{label} over CE, both at {last} epochs", better(f"{name}-{last}", f"ce-{last}")
        yield f"{label} over CE, both at {fourth} epochs", better(f"{name}-{fourth}", f"ce-{fourth}")
    yield f"MSE over CE, both at {third} epochs", better(f"mse-{third}", f"ce-{third}")
    yield f"tolerant over CE, both at {third} epochs", better(f"tolerant-{third}", f"ce-{third}")
    yield "TTM (T = 2) over KD (T = 1), mean of all teachers", losses("ttm", "kd")
    yield "WTTM over TTM, mean of all teachers", losses("wttm", "ttm")
    yield "PTLoss (fixed 1.0) over KD, mean of all teachers", losses("ptloss", "kd")
    yield f"searched proxy over CE as it is, {last} epochs", better(f"ce-{last}-proxy", f"ce-{last}")
    yield (
        f"searched proxy (5, class-wise) over CE as it is, {fourth} epochs",
        better(f"ce-{fourth}-proxy-5", f"ce-{fourth}"),
    )
    yield (
        f"searched proxy (5, class-wise) over temperature, {fourth} epochs",
        better(f"ce-{fourth}-proxy-5", f"ce-{fourth}-calibrated"),
    )
    auto = 100 * np.array(result["losses"]["kd"]["auto"]["accuracy"])
    yield f"`auto` over CE at {last} epochs", auto - accuracy(result, f"ce-{last}", "kd")
    yield f"`auto` over CE at {fourth} epochs", auto - accuracy(result, f"ce-{fourth}", "kd")


def cell(estimate: Estimate) -> str:
    """Bold where the interval excludes 0."""
    text = f"{estimate.value:+.2f} ± {(estimate.high - estimate.low) / 2:.2f}"
    return text if 0 in estimate else f"**{text}**"


def main() -> None:
    """A table with a column a study, its own epochs in brackets."""
    results = {path: read_json(Path(path) / "prediction.json") for path in sys.argv[1:]}
    names = [f"{Path(path).parent.name}/{Path(path).name}" for path in results]
    print(f"|  | {' | '.join(names)} |\n| :-- | {' | '.join(['--:'] * len(names))} |")
    rows = [[(label, cell(mean_interval(values))) for label, values in claims(r)] for r in results.values()]
    for same in zip(*rows, strict=True):
        print(f"| {same[0][0]} | {' | '.join(shown for _, shown in same)} |")
    print(
        "\nPoints of test accuracy of the student, paired by seed; ±: half the 95 % Student-t interval, bold where it"
    )
    print("excludes 0. Epochs are those of the first column; of the others:", end=" ")
    print("; ".join(f"{name} {epochs(r)}" for name, r in zip(names, results.values(), strict=True)) + ".")


if __name__ == "__main__":
    main()
