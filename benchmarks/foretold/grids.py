"""Choose a study's hyper-parameters on held-out samples, from grids of equal size and with seeds of their own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.recipe import override, parse
from preceptor.runs import read_result
from preceptor.schema import Strict
from preceptor.study.grid.run import run_study, teach_all
from preceptor.study.outputs import data_with_test
from preceptor.study.recipe import Study
from preceptor.training.verbs import teach

Points = Annotated[list[list[str]], Field(min_length=1)]
Say = Callable[[str], None]


class Grids(Strict):
    """Points to try; each is a list of ``key=value`` overrides of the entry that it is a point of."""

    seeds: Annotated[list[int], Field(min_length=1)]
    teachers: dict[str, Points]
    losses: dict[str, Points]
    baseline: Points


def tune(study: Study, grids: Mapping[str, Any], folder: Path, *, say: Say = lambda _: None) -> dict[str, Any]:
    """Train every point of every grid, and say which to use.

    A teacher's point is chosen by its mean held-out Brier score (what `assess` ranks by), a loss's by the mean held-out
    accuracy of its students over all chosen teachers, the baseline's by its held-out accuracy.

    Args:
        study: what is tuned; its seeds are replaced by the grids' own.
        grids: ``seeds``, and lists of points for each name under ``teachers`` and ``losses`` and for ``baseline``; a
            point is a list of ``key=value`` overrides of that entry.
        folder: where the runs go.

    Returns:
        For teachers, losses and the baseline: each point's score, and the number of the chosen one.

    Raises:
        InputError: the grids lack a part, differ in size, name something that the study does not have, or use one of
            its seeds; or the study has no test samples.
    """
    checked = _checked(study, grids)
    data = data_with_test(study.teach, checked.seeds[0])
    raw = study.model_dump(mode="json") | {"seeds": checked.seeds}
    found: dict[str, Any] = {"baseline": _tune_baseline(raw, checked.baseline, folder, say)}
    teachers, found["teachers"] = _tune_teachers(raw, checked.teachers, folder, data, say)
    found["losses"] = _tune_losses(raw, teachers, checked.losses, folder, say)
    return found


def _checked(study: Study, raw: Mapping[str, Any]) -> Grids:
    if missing := [key for key in Grids.model_fields if key not in raw]:
        raise InputError(f"the grids have no '{missing[0]}'; give {', '.join(Grids.model_fields)}")
    grids = parse(Grids, raw)
    if shared := sorted(set(study.seeds) & set(grids.seeds)):
        raise InputError(f"the grids' seeds {shared} are the study's, too; tune with seeds that the study does not use")
    for part, given, names in (
        ("teachers", grids.teachers, study.trained),
        ("losses", grids.losses, list(study.losses)),
    ):
        if set(given) != set(names):
            raise InputError(f"the grids' {part} are {sorted(given)}, the study's are {sorted(names)}; name all")
    sizes = {len(points) for points in (*grids.teachers.values(), *grids.losses.values(), grids.baseline)}
    if len(sizes) > 1:
        raise InputError(f"the grids have {sorted(sizes)} points; give all the same number")
    return grids


def _variants(entries: Mapping[str, Any], grid: Mapping[str, Points]) -> dict[str, Any]:
    """Every point of every grid as an entry of its own, ``name@0``, ``name@1``..."""
    return {
        f"{name}@{number}": override(entries[name], point)
        for name, points in grid.items()
        for number, point in enumerate(points)
    }


def _tune_teachers(
    raw: Mapping[str, Any], grid: Mapping[str, Points], folder: Path, data: Data, say: Say
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    variants = _variants(raw["teachers"], grid)
    study = parse(Study, {**raw, "teachers": variants})
    teach_all(study, folder, data, say=say)
    scores = {name: _heldout_brier(study, folder / "teachers" / name) for name in variants}
    chosen = {name: _choice(name, len(points), scores, lower=True) for name, points in grid.items()}
    best = [f"{name}@{choice['chosen']}" for name, choice in chosen.items()]
    return {name: variants[name] for name in best}, chosen


def _heldout_brier(study: Study, run: Path) -> float:
    runs = [run] if study.stack_teachers else [run / f"seed-{seed}" for seed in study.seeds]
    return float(np.mean([read_result(place)["heldout"]["last"]["brier"] for place in runs]))


def _tune_losses(
    raw: Mapping[str, Any], teachers: Mapping[str, Any], grid: Mapping[str, Points], folder: Path, say: Say
) -> dict[str, dict[str, Any]]:
    variants = _variants(raw["losses"], grid)
    study = parse(Study, {**raw, "teachers": teachers, "losses": variants})
    students = run_study(study, folder, command="tune", say=say)["students"]
    scores = {
        name: float(np.mean([cell["heldout"]["accuracy"] for cell in students[name].values()])) for name in variants
    }
    return {name: _choice(name, len(points), scores, lower=False) for name, points in grid.items()}


def _tune_baseline(raw: Mapping[str, Any], points: Points, folder: Path, say: Say) -> dict[str, Any]:
    scores = {}
    for number, point in enumerate(points):
        study = parse(Study, {**raw, "baseline": override(raw["baseline"], point)})
        say(f"baseline {number + 1}/{len(points)}: {' '.join(point)}")
        result = teach(study.baseline, folder / f"baseline-{number}", seeds=list(study.seeds))
        scores[f"baseline@{number}"] = float(np.mean(result["heldout"]["last"]["accuracy"]))
    return _choice("baseline", len(points), scores, lower=False)


def _choice(name: str, size: int, scores: Mapping[str, float], *, lower: bool) -> dict[str, Any]:
    values = [scores[f"{name}@{number}"] for number in range(size)]
    return {"chosen": int(np.argmin(values) if lower else np.argmax(values)), "scores": values}
