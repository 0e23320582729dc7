"""What the arena's runs say: assess's forecasts beside what came out, the claims, and what could be detected."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, norm, spearmanr, t

from preceptor import assess
from preceptor.assess import Estimate, mean_interval
from preceptor.outputs import average_probabilities
from preceptor.recipe import read_yaml
from preceptor.runs import read_predictions, read_result
from preceptor.runs.files import read_json
from preceptor.study import pictures
from preceptor.study.text import facts, markdown_table, plus_minus

SCHEMA = 1
STOPPED = "ce-stopped"
GUESSES = {
    "Brier score": ("brier", -1),
    "Brier score at the best temperature": ("brier_recalibrated", -1),
    "accuracy": ("accuracy", 1),
    "NLL": ("nll", -1),
}
CLAIMS = {
    STOPPED: "stopped early (best held-out Brier score)",
    "smoothing": "label smoothing",
    "mse": "MSE",
    "soteacher": "SoTeacher",
    "tolerant": "tolerant",
    "ema": "averaged weights (EMA)",
    "two": "an ensemble of two",
    "auto": "the choice of `auto`",
}
POWER, LEVEL = 0.8, 0.95


class Layout(NamedTuple):
    """What a complete seed holds: its teachers, by what they are made of, the losses, epochs of the students alone."""

    teachers: Mapping[str, Sequence[str]]
    losses: Sequence[str]
    epochs: int
    longer: int


# -- reading the runs -------------------------------------------------------------------------------------------------


def complete(folder: Path) -> bool:
    """Whether a run has ended."""
    return (folder / "result.json").is_file()


def students_of(folder: Path, teacher: str) -> str:
    """The teacher under whose name the students of one are: the last epoch, where the best one is the last."""
    run = folder / "teachers" / "ce"
    if teacher != STOPPED or not complete(run):
        return teacher
    last = read_yaml(run / "recipe.yaml")["training"]["epochs"] - 1  # epochs count from 0
    return "ce" if read_json(run / "result.json")["best_epoch"] == last else teacher


def alone_name(epochs: int) -> str:
    """What the folder of a student of the labels alone is called."""
    return f"alone-{epochs}"


def collect(out: Path, layout: Layout) -> dict[str, Any]:
    """Everything that the tables are made of, of the seeds that are complete.

    Where none is, of the seed with the most teachers whose students are complete, with these teachers alone.
    """
    folders = {int(path.name.removeprefix("seed-")): path for path in out.glob("seed-*")}
    ready = {seed: _ready(folders[seed], layout) for seed in sorted(folders)}
    seeds = [seed for seed, teachers in ready.items() if len(teachers) == len(layout.teachers)]
    furthest = max(ready, key=lambda seed: len(ready[seed]), default=None)
    if not seeds and furthest is not None and ready[furthest]:
        seeds = [furthest]
    teachers, complete_seeds = (ready[seeds[0]] if seeds else []), [folders[seed] for seed in seeds]
    result = {
        "schema_version": SCHEMA,
        "seeds": seeds,
        "unfinished": [seed for seed in ready if seed not in seeds],
        "missing": [name for name in layout.teachers if name not in teachers],
        "epochs": layout.epochs,
        "longer": layout.longer,
        "teachers": {name: _over([_teacher(each, name, layout) for each in complete_seeds]) for name in teachers},
        "students": {
            name: {loss: _over([_scores(_run(each, name, loss)) for each in complete_seeds]) for loss in layout.losses}
            for name in teachers
        },
        "alone": _alone(complete_seeds, layout.epochs),
        "alone_longer": _alone(complete_seeds, layout.longer),
    }
    return result | {"test_images": _test_images(result, complete_seeds) if teachers else {}}


def _ready(folder: Path, layout: Layout) -> list[str]:
    """The teachers of a seed all of whose students are complete; the seed's lone students count with the last one."""
    found = [name for name in layout.teachers if all(complete(_run(folder, name, loss)) for loss in layout.losses)]
    alone = all(complete(folder / alone_name(epochs)) for epochs in (layout.epochs, layout.longer))
    return found if alone else found[: len(layout.teachers) - 1]


def _run(folder: Path, teacher: str, loss: str) -> Path:
    return folder / "students" / students_of(folder, teacher) / loss


def _alone(folders: Sequence[Path], epochs: int) -> dict[str, list[float]]:
    runs = [folder / alone_name(epochs) for folder in folders]
    return _over([_scores(run) for run in runs]) if all(map(complete, runs)) else {}


def _scores(run: Path) -> dict[str, float]:
    """Test scores of the last epoch."""
    last = read_result(run)["test"]["last"]
    return {key: last[key] for key in ("accuracy", "brier", "nll")}


def _teacher(folder: Path, name: str, layout: Layout) -> dict[str, float]:
    """What held-out labels say of a teacher; nothing of ``auto``, whose mixture and transform they have fitted."""
    if name == "auto":
        return {}
    parts = [part.partition(":") for part in layout.teachers[name]]
    stored = [read_predictions(folder / "teachers" / run) for run, _, _ in parts]
    labels = stored[0]["heldout/labels"]
    outputs = [each[f"heldout/{weights or 'last'}"] for each, (_, _, weights) in zip(stored, parts, strict=True)]
    seen = assess.forecast(average_probabilities(outputs) if len(outputs) > 1 else outputs[0])
    return {
        "brier": float(assess.brier(seen, labels).mean()),
        "brier_recalibrated": float(assess.brier(assess.recalibrated(seen, labels), labels).mean()),
        "accuracy": float(assess.accuracy(seen, labels).mean()),
        "nll": float(assess.nll(seen, labels).mean()),
    }


def _test_images(result: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, float]:
    """For each claim its standard error, in points, as the test images are drawn; the seeds are as they are."""

    def hits(runs: Sequence[Path]) -> np.ndarray:
        """100 where an image is classified right, (seeds, images)."""
        stored = [read_predictions(run) for run in runs]
        return np.array([100.0 * (each["test/last"].argmax(-1) == each["test/labels"]).numpy() for each in stored])

    names, losses = list(result["students"]), _losses(result)
    became = np.array([[hits([_run(each, n, loss) for each in folders]) for loss in losses] for n in names])
    alone = {key: hits([each / alone_name(result[key]) for each in folders]) for key in ("epochs", "longer")}
    found = contrasts(result, became, alone["epochs"], alone["longer"]) if all(map(len, alone.values())) else {}
    return {
        label: float(values.mean(0).std(ddof=1) / math.sqrt(values.shape[-1]))
        for group in found.values()
        for label, values in group.items()
    }


def _over(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """One list a key, a value a seed."""
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


# -- statistics -------------------------------------------------------------------------------------------------------


def accuracies(result: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """Test accuracies of students in per cent, (teachers, losses, seeds)."""
    return 100 * np.array([[loss["accuracy"] for loss in result["students"][name].values()] for name in names])


def judged(result: Mapping[str, Any]) -> list[str]:
    """The teachers that held-out labels say something of, each once."""
    return [name for name in distinct(result) if result["teachers"][name]]


def distinct(result: Mapping[str, Any]) -> list[str]:
    """The teachers, without the early stopped one where no seed stopped early."""
    students = result["students"]
    return [name for name in students if name != STOPPED or students[name] != students.get("ce")]


def correlation(result: Mapping[str, Any], guess: str, losses: Sequence[str] | None = None) -> Estimate:
    """Spearman's, over the teachers of a seed, of a guess with the accuracy of their students.

    A seed's value is the mean over the losses, or over some of them; the interval is Student's t over the seeds.
    """
    places = [i for i, loss in enumerate(_losses(result)) if losses is None or loss in losses]
    predicted, became = _predicted(result, guess), accuracies(result, judged(result))[:, places]
    each = [[_spearman(predicted[:, s], loss[:, s]) for loss in became.swapaxes(0, 1)] for s in range(became.shape[2])]
    return mean_interval(np.mean(each, axis=1))


def regret(result: Mapping[str, Any], guess: str | None) -> Estimate:
    """Points of accuracy lost by the teacher that a guess puts first against the best; by any, for no guess.

    The best is picked by its own students, so that all regrets are somewhat too high.
    """
    became = accuracies(result, judged(result))
    best = became.max(0)
    if guess is None:
        return mean_interval((best - became.mean(0)).mean(0))
    first = _predicted(result, guess).argmax(0)
    chosen = np.array([became[teacher, :, s] for s, teacher in enumerate(first)]).T
    return mean_interval((best - chosen).mean(0))


def _predicted(result: Mapping[str, Any], guess: str) -> np.ndarray:
    """(teachers, seeds), more is better."""
    key, sign = GUESSES[guess]
    return sign * np.array([result["teachers"][name][key] for name in judged(result)])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    found: Any = spearmanr(x, y) if np.ptp(x) > 0 and np.ptp(y) > 0 else None
    return 0.0 if found is None else float(found.statistic)


def claims(result: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Paired differences in points of accuracy, one a seed: of teachers, of losses, and from the baselines."""
    names = list(result["students"])
    if not names:
        return {}
    alone, longer = (100 * np.array(result[key].get("accuracy", [])) for key in ("alone", "alone_longer"))
    return contrasts(result, accuracies(result, names), alone, longer)


def contrasts(
    result: Mapping[str, Any], became: np.ndarray, alone: np.ndarray, longer: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """The claims' differences, whatever the axes after the first ones are.

    Args:
        became: (teachers, losses, seeds, ...), what students became.
        alone, longer: (seeds, ...), of the students of the labels; empty where they are not complete.
    """
    names, losses = list(result["students"]), _losses(result)
    of = dict(zip(names, became.mean(1), strict=True))
    under = dict(zip(losses, became[[names.index(name) for name in distinct(result)]].mean(0), strict=True))
    kd = became[names.index("ce"), losses.index("kd")] if "ce" in names and "kd" in losses else None
    baselines = {"alone": alone, f"alone, {result['longer']} epochs": longer}
    return {
        "teachers": {f"{CLAIMS[n]} over CE": of[n] - of["ce"] for n in names if n != "ce" and "ce" in of},
        "losses": {f"{loss} over kd": under[loss] - under["kd"] for loss in losses if loss != "kd" and "kd" in under},
        "distilling": {
            f"student of CE by kd over the student {label}": kd - values
            for label, values in baselines.items()
            if kd is not None and len(values)
        },
    }


def _losses(result: Mapping[str, Any]) -> list[str]:
    return list(next(iter(result["students"].values()), {}))


def detectable(spread: float, seeds: int, degrees: int) -> float:
    """The smallest true difference that a paired, two-sided t-test at 5 % finds with 80 % power.

    Args:
        spread: standard deviation of a paired difference over the seeds.
        seeds: how many.
        degrees: of freedom that `spread` was estimated with.
    """
    if degrees < 1:
        return math.nan
    least = t.ppf((1 + LEVEL) / 2, degrees)
    away: Any = brentq(lambda away: nct.sf(least, degrees, away) - POWER, 0, 100)
    return away * spread / math.sqrt(seeds)


def pooled(differences: Sequence[np.ndarray]) -> tuple[float, int]:
    """Standard deviation of a paired difference over the seeds, pooled over claims, and its degrees of freedom."""
    varied = [each for each in differences if len(each) > 1 and np.ptp(each) > 0]
    if not varied:
        return math.nan, 0
    return float(np.sqrt(np.mean([each.var(ddof=1) for each in varied]))), sum(len(each) - 1 for each in varied)


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """All tables, and how they were made."""
    if not result["seeds"]:
        return f"No seed has a teacher whose students are complete yet; begun: {result['unfinished'] or 'none'}.\n"
    parts = [_students(result), _guesses(result), _claims(result), _pooled(result), _made(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _students(result: Mapping[str, Any]) -> str:
    """What held-out labels said of each teacher, and what its students became."""
    losses, rows = _losses(result), []
    for name, scores in result["teachers"].items():
        said = (
            [f"{np.mean(scores[key]):.3f}" for key in ("brier", "brier_recalibrated", "nll")] if scores else ["–"] * 3
        )
        held = f"{100 * np.mean(scores['accuracy']):.1f}" if scores else "–"
        rows.append([name, *said, held, *(_percent(result["students"][name][loss]) for loss in losses)])
    alone = [(result["epochs"], result["alone"]), (result["longer"], result["alone_longer"])]
    for epochs, scores in alone:
        if scores:
            rows.append(
                [f"student alone, {epochs} epochs", "", "", "", "", _percent(scores), *[""] * (len(losses) - 1)]
            )
    headers = ["teacher", "Brier", "at best T", "NLL", "accuracy", *(f"student, {loss}" for loss in losses)]
    return markdown_table(headers, rows)


def _guesses(result: Mapping[str, Any]) -> str:
    if len(judged(result)) < 3:
        return ""
    rows = [[n, plus_minus(correlation(result, n)), plus_minus(regret(result, n))] for n in GUESSES]
    rows.append(["any teacher", "", plus_minus(regret(result, None))])
    headers = ["held-out score of the teacher", "Spearman, with the students' accuracy", "regret of its first, points"]
    inside = [loss for loss in _losses(result) if loss[:1].isupper()]  # our names of losses that look into models
    outputs = [loss for loss in _losses(result) if "+" not in loss and loss not in inside]
    if not inside:
        return markdown_table(headers, rows)
    apart = [[n, *(plus_minus(correlation(result, n, each)) for each in (outputs, inside))] for n in GUESSES]
    split = ["Spearman, with students by", f"outputs ({', '.join(outputs)})", f"features ({', '.join(inside)})"]
    return markdown_table(headers, rows) + "\n\n" + markdown_table(split, apart)


def _claims(result: Mapping[str, Any]) -> str:
    images = result["test_images"]
    rows = [
        [label, *_claim(values, images.get(label, math.nan))]
        for group in claims(result).values()
        for label, values in group.items()
    ]
    return markdown_table(["claim", "points of test accuracy", "of the test images", "detectable"], rows)


def _claim(values: np.ndarray, of_images: float) -> list[str]:
    """A paired difference with its margin over seeds, that of the test images, and what could have been detected."""
    if not values.any():
        return ["the same students", "–", "–"]
    over_seeds, margin = mean_interval(values), norm.isf((1 - LEVEL) / 2) * of_images
    beyond = over_seeds.excludes_zero and not abs(over_seeds.value) < margin
    spread, degrees = pooled([values])
    limits = [detectable(spread, len(values), degrees) if degrees else math.nan, (margin + norm.ppf(POWER) * of_images)]
    shown = plus_minus(over_seeds, sign=True)
    least = max(limits)
    return [
        f"**{shown}**" if beyond else shown,
        f"± {margin:.2f}" if math.isfinite(margin) else "–",
        f"{least:.1f}" if math.isfinite(least) else "–",
    ]


def _pooled(result: Mapping[str, Any]) -> str:
    spread, degrees = pooled(list(claims(result)["teachers"].values()))
    if not degrees:
        return ""
    seeds = len(result["seeds"])
    return (
        f"If all differences of teachers vary alike over seeds, by a standard deviation of {spread:.2f} points "
        f"({degrees} degrees of freedom), {seeds} seeds detect {detectable(spread, seeds, degrees):.1f} points."
    )


def _made(result: Mapping[str, Any]) -> str:
    lacking = f" Not complete: {', '.join(result['missing'])}." if result["missing"] else ""
    begun = f" Begun seeds: {', '.join(map(str, result['unfinished']))}." if result["unfinished"] else ""
    made = "; ".join(f"{name} {value}" for name, value in facts({**result, "time_total": None}).items())
    return (
        f"Made by `{result['command']}`; {made}.{lacking}{begun} Teachers: held-out scores, before any student. "
        "Students: test accuracy in per cent after the last epoch. Spearman: over a seed's teachers, mean of losses. "
        "Claims on teachers are means over the losses, those on losses means over the teachers. ±: half the 95 % "
        "Student-t interval over seeds, none with one; of the test images: half the 95 % interval as they are drawn, "
        "the networks as they are; bold where both exclude 0. Detectable: the smallest true difference that a test at "
        "5 % finds with 80 % power, by the seeds or by the test images, whichever is larger."
    )


def _percent(scores: Mapping[str, Sequence[float]]) -> str:
    return f"{100 * np.mean(scores['accuracy']):.1f}"


def write_picture(result: Mapping[str, Any], path: Path) -> None:
    """What the best guess predicted against what came out: a panel a loss, a colour a teacher, a shape a seed."""
    names = judged(result)
    if not names:
        return
    losses, became = list(result["students"][names[0]]), accuracies(result, names)
    brier = -_predicted(result, "Brier score at the best temperature")
    with pictures.png((3.2 * len(losses) + 1.2) * 72, 3.8 * 72, path) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(losses), sharey=True))
        for axes, loss, accuracy in zip(panels, losses, became.swapaxes(0, 1), strict=True):
            for teacher in range(len(names)):
                for seed, (x, y) in enumerate(zip(brier[teacher], accuracy[teacher], strict=True)):
                    shape, color = "osD^v"[seed % 5], f"C{teacher}"
                    axes.plot(x, y, shape, color=color, label=None if seed else names[teacher], alpha=0.8)
            axes.invert_xaxis()
            axes.set(xlabel="Brier score at best T (better →)", title=loss)
        panels[0].set_ylabel("test accuracy of the student, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
