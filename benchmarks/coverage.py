"""How often intervals of differences hold the truth, and how often a difference is declared: by simulation.

    python benchmarks/coverage.py            # 2,000 draws a cell
    python benchmarks/coverage.py --quick    # a cell of each kind in seconds
    python benchmarks/coverage.py --sampled  # weights and groups alone, 500 draws a cell

Two teachers of samples with a known label distribution; of each draw, n samples with one label each. `unsure` teachers
are near to a flat truth; `sure` ones near to a sharp one; `few` are two sure networks that differ on 2 % of the
samples; `oversure` are certain where 3 % of the labels are others. A cell is wrong if fewer than 0.93 of its draws are
covered, less two standard errors.

With weights (log-normal, sigma 2) or in groups (of 40 samples, alike in how hard they are) two unsure teachers of 10
classes go through `compare`: the interval of one's accuracy, of its Brier score, and of the difference of the two.
"""

import argparse
from functools import cache
from typing import NamedTuple

import numpy as np

from preceptor.assess import (
    accuracy,
    brier,
    brier_decomposition,
    compare,
    forecast,
    intervals,
    nll,
    simultaneous_differences,
)
from preceptor.assess.calibration import classwise
from preceptor.assess.distance import draw_labels
from preceptor.assess.forecasts import Forecast

POPULATION = 20_000
SCORES = ("accuracy", "brier", "nll")
LEAST = 0.93
NEVER = 100.0
IN_GROUP = 40

# All draws of one size share their resamples, as all calls with one seed do: drawn once, they are not drawn again.
_drawn = intervals._draws
intervals._draws = cache(lambda *arguments: list(_drawn(*arguments)))


class Population(NamedTuple):
    """The label distribution (N, C) of all samples, and two teachers of them."""

    truth: np.ndarray
    teachers: tuple[Forecast, Forecast]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sampled", action="store_true")
    arguments = parser.parse_args()
    if arguments.sampled:
        sampled(min(arguments.draws, 500), arguments.resamples)
        return
    sizes, classes = ((50, 200), (2,)) if arguments.quick else ((50, 100, 200, 800, 2000), (2, 10, 100))
    draws = 200 if arguments.quick else arguments.draws
    print("| teachers | classes | samples | accuracy | Brier | NLL | Brier refinement |\n| :-- " + "| --: " * 6 + "|")
    for kind in ("unsure", "sure", "few", "oversure"):
        for number in classes:
            population = populate(kind, number)
            for size in sizes:
                if size >= number:
                    cells = cells_of(population, size, draws, arguments.resamples)
                    print(f"| {kind} | {number} | {size} | {' | '.join(cells)} |", flush=True)
    print("\nCovered / declared / right of those declared; ! is a cell below what is promised.")


def populate(kind: str, classes: int) -> Population:
    """Samples, their truth and two teachers, of a kind."""
    generator = np.random.default_rng(classes)
    z, noise = generator.normal(size=(2, POPULATION, classes))
    scale = {"unsure": 1.0, "sure": 12.0 if classes > 2 else 8.0, "few": 20.0, "oversure": 1.0}[kind]
    if kind == "unsure":
        truth, first, second = z, z + 0.5 * noise, z + 0.7 * generator.normal(size=z.shape)
    elif kind == "sure":
        truth, first, second = (scale * each for each in (z, z + 0.1 * noise, z + 0.2 * generator.normal(size=z.shape)))
    elif kind == "few":
        first = 1.5 * scale * (z + 0.03 * noise)
        moved = generator.random(POPULATION) < 0.02
        truth, second = scale * z, np.where(moved[:, None], np.roll(first, 1, axis=-1), first)
    else:
        sure = np.where(z == z.max(-1, keepdims=True), 0.97, 0.03 / (classes - 1))
        truth, first, second = np.log(sure), 10 * z, 20 * (z + 0.05 * noise)
    return Population(forecast(truth).probs, (forecast(first), forecast(second)))


def cells_of(population: Population, size: int, draws: int, resamples: int) -> list[str]:
    """How often the difference in each score is covered, declared, and declared rightly."""
    generator = np.random.default_rng(size)
    right = {score: expected(population, score) for score in SCORES}
    found: dict[str, list[tuple[bool, bool, bool]]] = {score: [] for score in SCORES}
    for draw in range(draws):
        rows = generator.integers(POPULATION, size=size)
        labels = draw_labels(population.truth[rows], draw)
        teachers = [teacher_of(teacher, rows) for teacher in population.teachers]
        for score in SCORES:
            difference = _difference(score, teachers, labels, resamples)
            declared = difference.excludes_zero
            found[score].append(
                (right[score] in difference, declared, declared and (difference.value > 0) == (right[score] > 0))
            )
    return [told(np.array(found[score])) for score in SCORES] + [refinement(population, size, draws, resamples)]


def sampled(draws: int, resamples: int) -> None:
    """How often intervals under weights, or by group, hold the truth."""
    population = populate("unsure", 10)
    print("| samples | accuracy | Brier | difference in Brier |\n| :-- | --: | --: | --: |")
    for size in (50, 200, 800):
        cells = covered_by_compare(population, draws, resamples, size=size)
        print(f"| {size}, with weights | {' | '.join(cells)} |", flush=True)
    for groups in (2, 3, 5, 20):
        cells = covered_by_compare(population, draws, resamples, groups=groups)
        print(f"| {groups} groups of {IN_GROUP} | {' | '.join(cells)} |", flush=True)


def covered_by_compare(
    population: Population, draws: int, resamples: int, *, size: int = 0, groups: int = 0
) -> list[str]:
    """Cells for so many samples with weights, or so many groups."""
    generator = np.random.default_rng(size + groups)
    by_hardness = population.teachers[0].probs.max(-1).argsort().reshape(50, -1)
    right = true_scores(population)
    covered = []
    for draw in range(draws):
        if groups:
            rows = generator.permuted(by_hardness[generator.integers(50, size=groups)], axis=1)[:, :IN_GROUP].ravel()
            known = {"groups": np.arange(groups).repeat(IN_GROUP)}
        else:
            rows = generator.integers(POPULATION, size=size)
            known = {"weights": generator.lognormal(sigma=2, size=size)}
        first, second = (teacher_of(teacher, rows) for teacher in population.teachers)
        labels = draw_labels(population.truth[rows], draw)
        found = compare({"a": first, "b": second}, labels, resamples=resamples, **known)
        scores = next(teacher.scores for teacher in found.teachers if teacher.name == "a")
        [difference] = found.differences
        estimate = difference.estimate if difference.first == "a" else -difference.estimate
        covered.append([right[0] in scores["accuracy"], right[1] in scores["brier"], right[2] in estimate])
    return [marked(float(share), draws) for share in np.mean(covered, axis=0)]


def true_scores(population: Population) -> tuple[float, float, float]:
    """The first teacher's accuracy and Brier score, and how much more the latter is than the second's."""
    truth, first = population.truth, population.teachers[0].probs
    at_top = np.take_along_axis(truth, first.argmax(-1)[:, None], -1).mean()
    score = ((first**2).sum(-1) + 1 - 2 * (truth * first).sum(-1)).mean()
    return float(at_top), float(score), expected(population, "brier")


def teacher_of(teacher: Forecast, rows: np.ndarray) -> Forecast:
    return Forecast(teacher.log_probs[rows], teacher.probs[rows])


def expected(population: Population, score: str) -> float:
    """The true difference."""
    truth, values = population.truth, []
    for teacher in population.teachers:
        if score == "accuracy":
            values.append(np.take_along_axis(truth, teacher.probs.argmax(-1)[:, None], -1).mean())
        elif score == "brier":
            values.append(((teacher.probs**2).sum(-1) + 1 - 2 * (truth * teacher.probs).sum(-1)).mean())
        else:
            values.append(-(truth * np.where(truth > 0, teacher.log_probs, 0)).sum(-1).mean())
    return float(values[0] - values[1])


def _difference(score: str, teachers: list[Forecast], labels: np.ndarray, resamples: int) -> intervals.Estimate:
    """The difference of two teachers in its interval, as `compare` makes it."""
    values = np.stack([{"accuracy": accuracy, "brier": brier, "nll": nll}[score](t, labels) for t in teachers])
    if score == "accuracy":
        best, worst = np.zeros((2, 1)), np.ones((2, 1))
    elif score == "brier":
        square = [(t.probs**2).sum(-1) + 1 for t in teachers]
        best = np.stack([s - 2 * t.probs.max(-1) for s, t in zip(square, teachers, strict=True)])
        worst = np.stack([s - 2 * t.probs.min(-1) for s, t in zip(square, teachers, strict=True)])
    else:
        best = np.zeros((2, 1))
        worst = np.stack([-np.maximum(t.log_probs.min(-1), -NEVER) for t in teachers])
    return simultaneous_differences(values, unseen=worst, best=best, resamples=resamples)[0, 1]


def refinement(population: Population, size: int, draws: int, resamples: int) -> str:
    """How often the interval of one teacher's Brier refinement holds that of very many samples."""
    if size != 200:
        return ""
    generator, teacher = np.random.default_rng(0), population.teachers[0]
    many = generator.integers(POPULATION, size=200_000)
    right = float(brier_decomposition(teacher_of(teacher, many), draw_labels(population.truth[many], 1)).refinement)
    covered = []
    for draw in range(max(1, draws // 4)):
        rows = generator.integers(POPULATION, size=size)
        some, labels = teacher_of(teacher, rows), draw_labels(population.truth[rows], draw)
        values = brier(some, labels) - classwise(some.log_probs, labels, 15, "mass").squared
        span = float((2 * some.probs.max(-1) - 2 * some.probs.min(-1)).mean())
        [interval] = intervals.studentised_intervals(values[None], np.array([span]), resamples=resamples)
        covered.append(right in interval)
    return marked(float(np.mean(covered)), len(covered))


def told(found: np.ndarray) -> str:
    covered, declared, rightly = found.mean(0)
    return f"{marked(covered, len(found))} / {declared:.2f} / {rightly / declared if declared else 1:.2f}"


def marked(covered: float, draws: int) -> str:
    short = covered < LEAST - 2 * np.sqrt(LEAST * (1 - LEAST) / draws)
    return f"{covered:.3f}{' !' if short else ''}"


if __name__ == "__main__":
    main()
