"""What the runs of benchmarks/teachers.py say: students of each kind of teacher, and what foretells them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from arena_report import GUESSES, detectable, pooled
from preceptor.assess import Estimate, mean_interval
from preceptor.runs import epochs_of, read_result
from preceptor.runs.files import read_json
from preceptor.study.text import difference, facts, markdown_table, plus_minus

TUNING = 100  # the seed at which settings are chosen
# Rates are multiples of the size's, that of `swag` of the one that was chosen for cross-entropy.
GRIDS: dict[str, tuple[float, ...]] = {
    "cross_entropy": (0.5, 1, 2),
    "label_smoothing": (0.05, 0.1, 0.2),
    "dropout": (0.1, 0.2, 0.4),
    "temperature": (0.5, 1.5, 3),
    "sftn": (1, 3, 6),
    "swag": (0.05, 0.15, 0.5),
    "sgld": (0.0001, 0.01, 1),
    "ensemble": (0.5, 1, 2),
    "snapshots": (2, 3, 6),
    "born_again": (1, 2, 4),
    "born_again_ensemble": (1, 2, 4),
    "aid": (0.25, 0.5, 0.75),
    "mutual": (0.5, 1, 2),
    "mutual_both": (0.5, 1, 2),
    "assistant": (1, 2, 4),
    "alone": (0.5, 1, 2),
    "mutual_small": (0.5, 1, 2),
}
# Kinds that share runs are one part of the work.
FAMILIES = {
    "cross_entropy": ("cross_entropy",),
    "stopped": ("stopped",),
    "label_smoothing": ("label_smoothing",),
    "dropout": ("dropout",),
    "temperature": ("temperature",),
    "sftn": ("sftn",),
    "swag": ("swag",),
    "sgld": ("sgld",),
    "ensemble": ("ensemble",),
    "snapshots": ("snapshots",),
    "born_again": ("born_again", "born_again_ensemble"),
    "aid": ("aid",),
    "mutual": ("mutual", "mutual_both", "mutual_small"),
    "assistant": ("assistant",),
    "alone": ("alone",),
    "longer": ("longer",),
}
# How a kind's setting is written.
MEANING = {
    "cross_entropy": "rate x {:g}",
    "stopped": "rate x {:g}",
    "label_smoothing": "smoothing {:g}",
    "dropout": "share {:g}",
    "temperature": "T = {:g}",
    "sftn": "weight {:g}",
    "swag": "rate x {:g}",
    "sgld": "noise x {:g}",
    "ensemble": "rate x {:g}",
    "snapshots": "{:g} cycles",
    "born_again": "T = {:g}",
    "born_again_ensemble": "T = {:g}",
    "aid": "weight {:g}",
    "mutual": "weight {:g}",
    "mutual_both": "weight {:g}",
    "assistant": "T = {:g}",
    "alone": "rate x {:g}",
    "longer": "rate x {:g}",
    "mutual_small": "weight {:g}",
}
NAMES = {
    "cross_entropy": "cross-entropy",
    "stopped": "cross-entropy, best epoch",
    "label_smoothing": "label smoothing",
    "dropout": "dropout",
    "temperature": "cross-entropy at a temperature",
    "sftn": "student-friendly (SFTN)",
    "swag": "SWAG, mean of the posterior",
    "sgld": "SGLD, mean of the posterior",
    "ensemble": "deep ensemble of two",
    "snapshots": "snapshots of a cyclic rate",
    "born_again": "born again",
    "born_again_ensemble": "born again, both generations",
    "aid": "adapted to its student (AID)",
    "mutual": "mutual learning, the large one",
    "mutual_both": "mutual learning, both",
    "assistant": "teacher assistant",
    "alone": "none: labels alone",
    "longer": "none: labels alone, longer",
    "mutual_small": "none: the small one of mutual learning",
}
BASELINES = ("label_smoothing", "dropout", "temperature")
GRID_OF = {"stopped": "cross_entropy", "longer": "alone"}  # what has no grid of its own
WITHOUT = ("alone", "longer", "mutual_small")  # students that have had no teacher


# -- reading the runs --------------------------------------------------------------------------------------------------


def complete(folder: Path) -> bool:
    """Whether a run has ended."""
    return (folder / "result.json").is_file()


def place(out: Path, seed: int, kind: str, setting: float) -> Path:
    """The run of the student of a kind of teacher, or of the labels alone."""
    folder = out / f"seed-{seed}"
    if kind == "mutual_small":
        return folder / "teachers" / f"mutual-{setting:g}" / "small"
    return folder / ("alone" if kind in ("alone", "longer") else "students") / f"{kind}-{setting:g}"


def best_setting(out: Path, kind: str, grids: Mapping[str, Sequence[float]]) -> float | None:
    """The setting whose student of `TUNING` is the most accurate on held-out images, of equal ones that of lower NLL.

    Of a single one there is no choice; None if some of the grid's students are not complete.
    """
    grid = GRID_OF.get(kind, kind)
    if len(grids[grid]) == 1:
        return grids[grid][0]
    runs = {setting: place(out, TUNING, grid, setting) for setting in grids[grid]}
    if not all(map(complete, runs.values())):
        return None
    scores = {setting: read_result(run)["heldout"]["last"] for setting, run in runs.items()}
    return max(scores, key=lambda setting: (scores[setting]["accuracy"], -scores[setting]["nll"]))


def collect(out: Path, grids: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, Any]:
    """All that the tables are made of, one value a seed.

    Of the seeds at which the student of cross-entropy is complete; a kind that is not at all of them is ``missing``.
    """
    chosen = {kind: best_setting(out, kind, grids) for family in FAMILIES.values() for kind in family}
    done = {kind: _complete_seeds(out, kind, setting, seeds) for kind, setting in chosen.items()}
    ready = done["cross_entropy"]
    found: dict[str, Any] = {
        "seeds": ready,
        "chosen": chosen,
        "tuning": {kind: _tuned(out, kind, values) for kind, values in grids.items()},
        "missing": [kind for kind in done if not ready or not set(ready) <= set(done[kind])],
        "teachers": {},
        "students": {},
    }
    for kind, setting in chosen.items():
        if kind in found["missing"] or setting is None:
            continue
        places = [place(out, seed, kind, setting) for seed in ready]
        results = [read_result(each) for each in places]
        found["students"][kind] = {
            part: {score: [each[part]["last"][score] for each in results] for score in ("accuracy", "brier")}
            for part in ("heldout", "test")
        }
        if kind not in WITHOUT:
            found["teachers"][kind] = _over([_judged(each) for each in places])
    return found


def _complete_seeds(out: Path, kind: str, setting: float | None, seeds: Sequence[int]) -> list[int]:
    if setting is None:
        return []
    places = {seed: place(out, seed, kind, setting) for seed in seeds}
    return [seed for seed, at in places.items() if complete(at) and (kind in WITHOUT or judgement(at).is_file())]


def judgement(student: Path) -> Path:
    """What `assess` said of the teacher, beside its student; the name may hold a point, which is no suffix."""
    return student.with_name(f"{student.name}.json")


def _judged(student: Path) -> dict[str, float]:
    """The scores of a teacher, and the epochs of all its runs."""
    said = read_json(judgement(student))
    runs = [student.parents[1] / run for run in said["runs"]]
    epochs = sum(map(epochs_of, runs))
    return said["heldout"] | {"test_accuracy": said["test"]["accuracy"], "epochs": epochs}


def _tuned(out: Path, kind: str, settings: Sequence[float]) -> dict[str, float]:
    """The held-out accuracy of each setting's student, of those that are complete."""
    runs = {f"{setting:g}": place(out, TUNING, kind, setting) for setting in settings}
    return {name: read_result(run)["heldout"]["last"]["accuracy"] for name, run in runs.items() if complete(run)}


def _over(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """One list a key, a value a seed."""
    return {key: [row[key] for row in rows] for key in rows[0]}


# -- what they say -----------------------------------------------------------------------------------------------------


def accuracies(result: Mapping[str, Any], kind: str, part: str = "test") -> np.ndarray:
    """Accuracy of a kind's students in per cent, one value a seed."""
    return 100 * np.array(result["students"][kind][part]["accuracy"])


def best_baseline(result: Mapping[str, Any]) -> str | None:
    """That of dropout, temperature and label smoothing whose students are the most accurate on held-out images."""
    tried = [kind for kind in BASELINES if kind in result["students"]]
    return max(tried, key=lambda kind: accuracies(result, kind, "heldout").mean()) if tried else None


def gains(result: Mapping[str, Any], rival: str) -> dict[str, np.ndarray]:
    """Test accuracy of each kind's students less that of a rival's, in points, paired by seed."""
    of = accuracies(result, rival)
    return {kind: accuracies(result, kind) - of for kind in result["students"] if kind != rival}


def judged(result: Mapping[str, Any]) -> list[str]:
    """The kinds of teachers, without the best epoch where it was the last one at every seed."""
    teachers = result["teachers"]
    same = teachers.get("stopped", {}).get("brier") == teachers.get("cross_entropy", {}).get("brier")
    return [kind for kind in teachers if not (kind == "stopped" and same)]


def foretold(result: Mapping[str, Any], key: str, sign: int) -> tuple[float, np.ndarray]:
    """Spearman over the kinds of a teacher's score, where less is better if `sign` is -1, with its students' accuracy.

    Returns:
        That of the means over seeds, and that of each seed; NaN where all are alike.
    """
    kinds = judged(result)
    x = sign * np.array([result["teachers"][kind][key] for kind in kinds])
    y = np.array([accuracies(result, kind) for kind in kinds])
    return _spearman(x.mean(1), y.mean(1)), np.array([_spearman(*both) for both in zip(x.T, y.T, strict=True)])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else math.nan  # type: ignore[union-attr]


def scores() -> dict[str, tuple[str, int]]:
    """What could foretell students: held-out scores, and the test accuracy, which nobody has before."""
    return {f"held-out {name}": guess for name, guess in GUESSES.items()} | {"test accuracy": ("test_accuracy", 1)}


def verdict(result: Mapping[str, Any]) -> list[str]:
    """What the numbers come to, a sentence each."""
    said = []
    for rival in ("cross_entropy", best_baseline(result)):
        if rival is not None:
            every = {kind: gap for kind, gap in gains(result, rival).items() if kind in judged(result)}
            said.append(_compared(f"Against the students of '{NAMES[rival]}'", every))
    alone = {kind: -gap for kind, gap in gains(result, "cross_entropy").items() if kind in WITHOUT}
    if alone:
        said.append(_compared("The students of 'cross-entropy' against those without a teacher", alone))
    if len(judged(result)) > 2:
        each = {name: mean_interval(foretold(result, *guess)[1]) for name, guess in scores().items()}
        ranks = [f"{name} ({plus_minus(rho)})" for name, rho in each.items() if rho.low > 0]
        said.append(f"Ranks the kinds' students at the seeds (Spearman): {', '.join(ranks) or 'nothing for certain'}.")
    return said


def _compared(what: str, every: Mapping[str, np.ndarray]) -> str:
    """Which differences are above 0, which below, and which are not told from it."""
    found = {kind: mean_interval(gap) for kind, gap in every.items()}
    groups = {
        "better": [kind for kind, gap in found.items() if gap.low > 0],
        "worse": [kind for kind, gap in found.items() if gap.high < 0],
    }
    named = {
        word: ", ".join(f"{NAMES[kind]} ({plus_minus(found[kind], sign=True)})" for kind in kinds) or "none"
        for word, kinds in groups.items()
    }
    rest = len(found) - sum(map(len, groups.values()))
    return f"{what}: better {named['better']}; worse {named['worse']}; not told apart {rest}."


# -- the tables --------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """The verdict, the tables, and how they were made."""
    shown = "; ".join(f"{name} {value}" for name, value in facts({**result, "time_total": None}).items())
    made = f"Made by `{result['command']}`; {shown}."
    if not result["students"]:
        return f"No seed is complete yet.\n\n{made}\n"
    lacking = f" Not complete: {', '.join(NAMES[kind] for kind in result['missing'])}." if result["missing"] else ""
    parts = [
        "**Verdict**, computed from the tables below:\n\n" + "\n".join(f"- {each}" for each in verdict(result)),
        "**Teachers, and what their students became**\n\n" + _kinds(result),
        _power(result),
        "**What foretells the students?** Spearman over the kinds of teachers\n\n" + _foretold(result),
        "**Tuning**: held-out accuracy of the student of each setting, at a seed of its own\n\n" + _tuning(result),
        NOTE + made + lacking,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


NOTE = (
    "Accuracies in per cent, differences in points; teachers: means over seeds of held-out scores before any student, "
    "and their test accuracy. Cost: epochs of all networks that were trained for a teacher, whatever their size, over "
    "those of cross-entropy's. ±: half the 95 % Student-t interval over paired seeds, bold where it excludes 0; "
    "intervals are one at a time: of twenty about one excludes 0 by chance. The best baseline of dropout, temperature "
    "and label smoothing is the one whose students are the most accurate on held-out images. Detectable: the smallest "
    "true difference from cross-entropy's students that a test at 5 % finds with 80 % power. "
)


def _kinds(result: Mapping[str, Any]) -> str:
    rival = best_baseline(result)
    columns = {"cross-entropy": "cross_entropy"} | ({NAMES[rival]: rival} if rival else {})
    gaps = {label: gains(result, kind) for label, kind in columns.items()}
    rows = []
    for kind in result["students"]:
        own = plus_minus(mean_interval(accuracies(result, kind)))
        against = [_gap(gap.get(kind)) for gap in gaps.values()]
        least = _detectable([gaps["cross-entropy"][kind]]) if kind != "cross_entropy" else ""
        setting = MEANING[kind].format(result["chosen"][kind])
        rows.append([NAMES[kind], setting, *_teacher(result, kind), own, *against, least])
    scored = ["cost", "accuracy", "test", "Brier", "at best T", "NLL"]
    return markdown_table(["teacher", "setting", *scored, "student", *(f"vs {c}" for c in columns), "detectable"], rows)


def _teacher(result: Mapping[str, Any], kind: str) -> list[str]:
    found = result["teachers"].get(kind)
    if found is None:
        return [""] * 6
    cost = np.mean(found["epochs"]) / np.mean(result["teachers"]["cross_entropy"]["epochs"])
    accuracy = [f"{100 * np.mean(found[key]):.1f}" for key in ("accuracy", "test_accuracy")]
    return [f"{cost:.1f}", *accuracy, *(f"{np.mean(found[key]):.3f}" for key in ("brier", "brier_recalibrated", "nll"))]


def _gap(values: np.ndarray | None) -> str:
    return "" if values is None else difference(mean_interval(values))


def _detectable(gaps: Sequence[np.ndarray]) -> str:
    spread, degrees = pooled(gaps)
    return f"{detectable(spread, len(gaps[0]), degrees):.1f}" if degrees else "–"


def _power(result: Mapping[str, Any]) -> str:
    gaps = [gap for kind, gap in gains(result, "cross_entropy").items() if kind in judged(result)]
    spread, degrees = pooled(gaps)
    if not degrees:
        return ""
    return (
        f"If all differences from cross-entropy's students vary alike over seeds, by a standard deviation of "
        f"{spread:.2f} points ({degrees} degrees of freedom), {len(result['seeds'])} seeds detect {_detectable(gaps)} "
        "points."
    )


def _foretold(result: Mapping[str, Any]) -> str:
    if len(judged(result)) < 3:
        return "Too few kinds."
    rows = []
    for name, guess in scores().items():
        of_means, each = foretold(result, *guess)
        rows.append([name, f"{of_means:.2f}", _ends(mean_interval(each))])
    return markdown_table(["score of the teacher", "of means over seeds", "of each seed, mean"], rows)


def _ends(correlation: Estimate) -> str:
    low, high = (np.clip(end, -1, 1) for end in (correlation.low, correlation.high))
    return f"{correlation.value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")


def _tuning(result: Mapping[str, Any]) -> str:
    rows = []
    for kind, found in result["tuning"].items():
        of = [f"{MEANING[kind].format(float(setting))}: {100 * score:.1f}" for setting, score in found.items()]
        rows += [[NAMES[kind], *of]] if of else []
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    return markdown_table(["kind", *(f"setting {n}" for n in range(1, width))], rows)
