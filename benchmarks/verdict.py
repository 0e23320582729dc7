"""What the prediction benchmarks say of each paper's claim: paired differences of students, in points of accuracy.

python benchmarks/verdict.py runs/known-truth/toy runs/human-text/features ...

With --docs docs it also puts all tables into docs/prediction-tables.md, and the pictures into docs/images. What they
say is written by hand: docs/verdict.md.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from foretold.report import markdown, write_picture
from foretold.summary import GUESSES, LossSummary, summarize
from preceptor.assess import mean_interval
from preceptor.errors import InputError
from preceptor.runs.files import read_json, write_text
from preceptor.study.text import difference, markdown_table

COMPARED = {"kd", "ttm", "wttm", "ptloss"}


def accuracy(result: Mapping[str, Any], candidate: str, loss: str) -> np.ndarray:
    """Test accuracy of a candidate's students, in percent, one value a seed."""
    return 100 * np.array(result["losses"][loss]["students"][candidate]["accuracy"])


def epochs(result: Mapping[str, Any]) -> tuple[int, int, int]:
    """(a), (b), end: two epochs to stop a teacher at, and its last. Candidates are made of six."""
    _, _, a, b, _, end = sorted(result["recipe"]["teach"]["training"]["checkpoint_epochs"])
    return a, b, end


def claims(result: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Each claim with its paired differences, one a seed; KD students unless it says otherwise."""
    a, b, end = epochs(result)

    def better(one: str, other: str) -> np.ndarray:
        return accuracy(result, one, "kd") - accuracy(result, other, "kd")

    def losses(one: str, other: str) -> np.ndarray:
        every = [accuracy(result, name, one) - accuracy(result, name, other) for name in result["candidates"]]
        return np.mean(every, axis=0)

    yield "stopping early (b) over training to the end, CE", better(f"ce-{b}", f"ce-{end}")
    names = {"mse": "MSE", "soteacher": "SoTeacher", "tolerant": "tolerant", "smoothing": "label smoothing"}
    for name, label in names.items():
        yield f"{label} over CE, both to the end", better(f"{name}-{end}", f"ce-{end}")
        yield f"{label} over CE, both stopped (b)", better(f"{name}-{b}", f"ce-{b}")
    yield "MSE over CE, both stopped (a)", better(f"mse-{a}", f"ce-{a}")
    yield "tolerant over CE, both stopped (a)", better(f"tolerant-{a}", f"ce-{a}")
    yield "TTM (T = 2) over KD (T = 1), mean of all teachers", losses("ttm", "kd")
    yield "WTTM over TTM, mean of all teachers", losses("wttm", "ttm")
    yield "PTLoss (fixed 1.0) over KD, mean of all teachers", losses("ptloss", "kd")
    yield "searched proxy (M = 1, shared) over none, CE to the end", better(f"ce-{end}-proxy", f"ce-{end}")
    proxy = f"ce-{b}-proxy-5"
    yield "searched proxy (M = 5, class-wise) over none, CE stopped (b)", better(proxy, f"ce-{b}")
    yield "the same over a fitted temperature", better(proxy, f"ce-{b}-calibrated")
    auto = 100 * np.array(result["losses"]["kd"]["auto"]["accuracy"])
    yield "`auto` over CE to the end", auto - accuracy(result, f"ce-{end}", "kd")
    yield "`auto` over CE stopped (b)", auto - accuracy(result, f"ce-{b}", "kd")


def by_loss(results: Mapping[str, Any], shown: Callable[[LossSummary], str]) -> str:
    """A table with a row a study and a column a loss."""
    summaries = {name: summarize(result) for name, result in results.items()}
    losses = list(max(summaries.values(), key=len))
    rows = [
        [name, *(shown(found[loss]) if loss in found else "" for loss in losses)] for name, found in summaries.items()
    ]
    return markdown_table(["", *losses], rows)


def within(value: float, halves: float, ceiling: float) -> str:
    """A correlation, with that of two halves of the seeds and the noise ceiling."""
    return f"{value:.2f} ({halves:.2f}; {ceiling:.2f})"


def misjudged(result: Mapping[str, Any], loss: str) -> str:
    """The candidate without which the prediction of the accuracy would be best, and the correlation then."""
    students, candidates = result["losses"][loss]["students"], result["candidates"]
    predicted = np.array([-np.mean(c["losses"][loss]["brier_recalibrated"]) for c in candidates.values()])
    became = np.array([np.mean(students[name]["accuracy"]) for name in candidates])
    without = [spearmanr(np.delete(predicted, i), np.delete(became, i)).statistic for i in range(len(predicted))]
    return f"{list(candidates)[int(np.argmax(without))]}, {max(without):.2f}"


FIGURES: dict[str, Callable[[LossSummary], float]] = {
    "recalibrated Brier → accuracy": lambda s: s.correlation.value,
    "halves of the seeds": lambda s: s.halves,
    "noise ceiling": lambda s: s.ceiling,
    "within the better half": lambda s: s.better_half.value,
    "Brier → accuracy": lambda s: s.brier.value,
    "Brier → distance": lambda s: s.with_distance.value,
    "true distance, held-out → accuracy": lambda s: s.distance_heldout.value,
    "true distance, transfer set → accuracy": lambda s: s.distance_transfer.value,
    "recalibrated Brier → accuracy of early-stopped students": lambda s: s.early_stopped.value,
    "truth over labels, early-stopped, points": lambda s: s.early_stopped_gap.value,
    "truth over labels, points": lambda s: 100 * (s.oracle.value - s.hard.value),
    **{f"guess {name} → accuracy": lambda s, name=name: s.guesses[name].value for name in GUESSES},
    "gap closed by `auto`": lambda s: s.auto_closure.value,
}


def spans(result: Mapping[str, Any]) -> str:
    """What the page says of a study in words: every figure from its lowest to its highest value over the losses."""
    found = summarize(result)
    lines = [f"  {what}: {span([figure(s) for s in found.values()])}" for what, figure in FIGURES.items()]
    behind = [best_over_auto(result, loss) for loss in found]
    missed = [
        f"{loss} by {aim(s) - s.correlation.value:.3f}" for loss, s in found.items() if s.correlation.value < aim(s)
    ]
    lines.append(f"  best candidate over `auto`, points of accuracy: {span(behind)}")
    lines.append(f"  the aim is missed under: {', '.join(missed) or 'no loss'}")
    return "\n".join(lines)


def span(values: Sequence[float]) -> str:
    """The lowest to the highest."""
    return f"{min(values):.2f} to {max(values):.2f}"


def aim(summary: LossSummary) -> float:
    """The correlation that was aimed at: 0.95, or that of the halves less 0.02."""
    return min(0.95, summary.halves - 0.02)


def best_over_auto(result: Mapping[str, Any], loss: str) -> float:
    """Accuracy of the best candidate's students less that of ``auto``'s, in points."""
    found = result["losses"][loss]
    best = max(np.mean(student["accuracy"]) for student in found["students"].values())
    return float(100 * (best - np.mean(found["auto"]["accuracy"])))


def papers(results: Mapping[str, Any]) -> str:
    """A table with a column a study."""
    columns = [[(label, difference(mean_interval(values))) for label, values in claims(r)] for r in results.values()]
    rows = [[same[0][0], *(shown for _, shown in same)] for same in zip(*columns, strict=True)]
    moments = "; ".join(f"{name} {', '.join(map(str, epochs(result)))}" for name, result in results.items())
    return (
        f"{markdown_table(['', *results], rows)}\n\n"
        "Points of test accuracy of the student, paired by seed; KD unless it says otherwise; ±: half the 95 % "
        f"Student-t interval, bold where it excludes 0. Epochs (a), (b), end: {moments}."
    )


def tables(studies: Mapping[str, Any]) -> dict[str, str]:
    """The tables over all studies, by what their place in docs/prediction-tables.md is called."""
    complete = {name: result for name, result in studies.items() if set(result["losses"]) >= COMPARED}
    return {
        "accuracy": by_loss(studies, lambda s: within(s.correlation.value, s.halves, s.ceiling)),
        "distance": by_loss(studies, lambda s: within(s.with_distance.value, s.distance_halves, s.distance_ceiling)),
        "auto": by_loss(studies, lambda s: "–" if np.isnan(s.auto_closure.value) else str(s.auto_closure)),
        "papers": papers(complete),
    }


def fill(page: str, found: Mapping[str, str]) -> str:
    """The page with each table between ``<!-- table NAME -->`` and ``<!-- end -->``, in place of what was there."""
    for name, table in found.items():
        place = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(page):
            raise InputError(f"the page has no place '<!-- table {name} -->' ... '<!-- end -->'; put it back")
        page = place.sub(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", page)
    return page


def write_docs(studies: Mapping[str, Any], docs: Path) -> None:
    """The tables over all studies, and all there is of each with its picture, into prediction-tables.md."""
    parts = []
    for name, result in studies.items():
        picture = f"images/prediction-{name.replace('/', '-')}.png"
        write_picture(result, docs / picture)
        parts.append(f"### {name}\n\n![{name}: predicted against realised]({picture})\n\n{markdown(result)}")
    page = docs / "prediction-tables.md"
    found = tables(studies) | {"studies": "\n\n".join(part.strip() for part in parts)}
    write_text(page, fill(page.read_text(encoding="utf-8"), found))


def main() -> None:
    """What predicts, what auto is worth, what the papers' claims are worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of finished prediction studies")
    parser.add_argument("--docs", type=Path, help="folder to write all tables and pictures to: give all studies then")
    arguments = parser.parse_args()
    studies = {f"{path.parent.name}/{path.name}": read_json(path / "prediction.json") for path in arguments.studies}
    for name, table in tables(studies).items():
        print(f"{name}:\n\n{table}\n")
    for name, result in studies.items():
        print(f"{name}, over the losses:\n{spans(result)}\n")
    print("misjudged most, and the correlation with the accuracy without it:\n")
    for name, result in studies.items():
        print(f"{name}: {'; '.join(f'{loss} {misjudged(result, loss)}' for loss in result['losses'])}")
    if arguments.docs:
        write_docs(studies, arguments.docs)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
