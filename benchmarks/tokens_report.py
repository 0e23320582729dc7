"""What the runs of benchmarks/tokens.py say: teachers, students, whether the ones foretell the others, a verdict."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from preceptor.assess import Estimate, mean_interval
from preceptor.recipe import DistillRecipe
from preceptor.recipe.keywords import make_recipe
from preceptor.runs import read_result
from preceptor.runs.files import read_json
from preceptor.runs.references import teacher_references
from preceptor.study.statistics import differs
from preceptor.study.text import facts, markdown_table, plus_minus
from preceptor.training.data.samples import cut, load_data
from preceptor.training.engine.device import make_accelerator
from preceptor.training.scoring.token_evaluator import token_scores
from preceptor.training.teachers.given import fitted, load_teachers

SCORES = ("nll", "bits_per_byte", "entropy", "calibration_error")
NAMES = {
    "early": "a quarter of the epochs",
    "last": "last epoch",
    "best": "best epoch",
    "calibrated": "last epoch at fitted T",
    "two": "last epochs of two",
    "mse": "best epoch, fine-tuned with MSE",
    "tolerant": "tolerant, last epoch",
}
LABELS = {
    "ce": "cross-entropy alone",
    "smoothing": "label smoothing",
    "longer": "cross-entropy alone, twice the epochs",
}
# Each method against what it is held to: (method, teacher) over (method, teacher); a method of None is every loss.
CLAIMS: dict[str, tuple[tuple[str | None, str | None], tuple[str | None, str | None]]] = {
    "stopping early: best over last epoch": ((None, "best"), (None, "last")),
    "a fitted temperature over none": ((None, "calibrated"), (None, "last")),
    "two teachers over one": ((None, "two"), (None, "last")),
    "MSE over the best epoch that it began with": ((None, "mse"), (None, "best")),
    "tolerant over cross-entropy, last epochs": ((None, "tolerant"), (None, "last")),
    "WTTM over KD, mean of all teachers": (("wttm", None), ("kd", None)),
    "TTM over KD, mean of all teachers": (("ttm", None), ("kd", None)),
    "WTTM over TTM, mean of all teachers": (("wttm", None), ("ttm", None)),
    "PTLoss over KD, mean of all teachers": (("ptloss", None), ("kd", None)),
    "reverse KL over KD, mean of all teachers": (("reverse_kl", None), ("kd", None)),
}


# -- reading the runs --------------------------------------------------------------------------------------------------


def complete(folder: Path) -> bool:
    """Whether a run has ended."""
    return (folder / "result.json").is_file()


def of_setting(folder: Path) -> float:
    """The held-out NLL of a student's best epoch, by which settings are chosen."""
    return float(read_result(folder)["heldout"]["best"]["nll"])


def worth(reference: str, recipe: Mapping[str, Any], temperatures: tuple[float, ...]) -> dict[str, Any]:
    """Scores of a teacher, as students are given it, on the held-out and the test text.

    Args:
        reference: its name.
        recipe: whose data.
        temperatures: at which its NLL is told, too.

    Returns:
        For ``heldout`` and ``test`` the means of `TokenScores.means`; ``at``, the NLL at each of the temperatures; and
        ``documents`` and ``counts``, the nats and the labels of each document.
    """
    made = make_recipe(
        DistillRecipe, dict(recipe), {"teacher": [r.model_dump() for r in teacher_references(reference)]}
    )
    samples, device = cut(made, load_data(made, None), made.seed), make_accelerator(made.training).device
    teacher = fitted(made, load_teachers(made, None, False), samples, device)
    parts = {"heldout": (samples.train, samples.parts["heldout"]), "test": (samples.test, samples.test_indices)}
    found = {}
    for part, (dataset, rows) in parts.items():
        assert dataset is not None
        scores = token_scores(teacher, dataset, rows, device, temperatures=temperatures)
        nats, counts = by_document(scores.documents, scores.nll)
        at = dict(zip(map("{:g}".format, temperatures), scores.nll_at.double().mean(0).tolist(), strict=True))
        found[part] = scores.means() | {"at": at, "documents": nats.tolist(), "counts": counts.tolist()}
    return found


def by_document(documents: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the nats of each document's labels, float64 (D,), and their number, int64 (D,)."""
    numbers, at = documents.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, at, nll.double())
    return sums, at.bincount(minlength=len(numbers))


def collect(
    out: Path,
    teachers: Sequence[str],
    losses: Sequence[str],
    seeds: Sequence[int],
    grids: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """All that the tables are made of, one value a seed, of the seeds that are complete."""
    chosen = _chosen(out, losses, grids)
    places: dict[tuple[str, str], str] = {}
    if len(chosen) == len(grids):
        places |= {(name, ""): f"alone/{name}-{chosen[name]:g}" for name in ("ce", "smoothing")}
        places["longer", ""] = f"alone/longer-{chosen['ce']:g}"
        places |= {(s, t): f"students/{t}/{s}-{chosen[s]:g}" for s in losses for t in teachers}
    ready = [seed for seed in seeds if places and _ready(out / f"seed-{seed}", places.values(), teachers)]
    found: dict[str, Any] = {"chosen": chosen, "seeds": ready, "teachers": {}, "students": {}}
    if not ready:
        return found
    for name in teachers:
        each = [read_json(out / f"seed-{seed}" / "records" / f"{name}.json") for seed in ready]
        found["teachers"][name] = {part: _over([one[part] for one in each]) for part in ("heldout", "test")}
    results = [read_result(out / f"seed-{seed}" / "teachers" / "ce") for seed in ready]
    found["temperature"] = [result["temperature"]["last"] for result in results]
    found["best_epoch"] = [result["best_epoch"] + 1 for result in results]
    for (method, teacher), place in places.items():
        each = [read_result(out / f"seed-{seed}" / place) for seed in ready]
        found["students"].setdefault(method, {})[teacher] = {
            "best_epoch": [result["best_epoch"] + 1 for result in each],
            **{kind: _over([result["test"][kind] for result in each]) for kind in ("best", "last")},
        }
    return found


def _chosen(out: Path, losses: Sequence[str], grids: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The setting of each method whose grid is complete."""
    found = {}
    for method, values in grids.items():
        folder = out / "seed-0" / ("students/best" if method in losses else "alone")
        runs = {value: folder / f"{method}-{value:g}" for value in values}
        if all(map(complete, runs.values())):
            found[method] = min(runs, key=lambda value: of_setting(runs[value]))
    return found


def _ready(folder: Path, places: Any, teachers: Sequence[str]) -> bool:
    scored = all((folder / "records" / f"{name}.json").is_file() for name in teachers)
    return scored and all(complete(folder / place) for place in places)


def _over(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One mapping of lists of what are mappings of numbers."""
    return {key: [row[key] for row in rows] for key in rows[0]}


# -- what they say -----------------------------------------------------------------------------------------------------


def nats_by_document(part: Mapping[str, Any], less: Mapping[str, Any] | None = None) -> Estimate:
    """NLL over all labels, a mean over seeds, in the interval of documents as they could have been drawn otherwise.

    Args:
        part: of a teacher.
        less: of another one, whose NLL on the same documents is taken off.
    """
    nats = np.mean(part["documents"], 0) - (0.0 if less is None else np.mean(less["documents"], 0))
    counts = np.mean(part["counts"], 0)
    mean = nats.sum() / counts.sum()
    # A ratio of two means: its spread is that of what each document adds beyond its share.
    return mean_interval(mean + (nats - mean * counts) / counts.mean())


def gains(result: Mapping[str, Any], method: str, teacher: str, kind: str = "best") -> np.ndarray:
    """Test NLL of a student less that of cross-entropy alone, one value a seed: below 0 is better."""
    return _nll(result, method, teacher, kind) - _nll(result, "ce", "", kind)


def _nll(result: Mapping[str, Any], method: str, teacher: str, kind: str = "best") -> np.ndarray:
    return np.array(result["students"][method][teacher][kind]["nll"], dtype=float)


def claims(result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Of each method that has been tried the test NLL of its students less that of others, one value a seed."""
    losses, teachers = _losses(result), result["teachers"]

    def students(side: tuple[str | None, str | None]) -> np.ndarray | None:
        methods = losses if side[0] is None else [name for name in losses if name == side[0]]
        names = list(teachers) if side[1] is None else [name for name in teachers if name == side[1]]
        every = [_nll(result, method, name) for method in methods for name in names]
        return np.mean(every, 0) if every else None

    both = {claim: (students(one), students(other)) for claim, (one, other) in CLAIMS.items()}
    return {claim: one - other for claim, (one, other) in both.items() if one is not None and other is not None}


def foretold(result: Mapping[str, Any], loss: str, *, softened: bool) -> dict[str, np.ndarray]:
    """Rank correlations over teachers of their held-out NLL with their students' test NLL, one value a seed.

    Args:
        softened: of the NLL of what TTM and WTTM make of the teacher, at their temperature.

    Returns:
        ``spearman`` and ``kendall``; NaN for a seed whose teachers or students are all alike.
    """
    at = f"{result['chosen'][loss]:g}"
    heldout = [each["heldout"] for each in result["teachers"].values()]
    x = np.array([[one[at] for one in part["at"]] if softened else part["nll"] for part in heldout], dtype=float)
    y = np.array([_nll(result, loss, name) for name in result["teachers"]])
    seeds = range(x.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input, which gives NaN
        return {
            "spearman": np.array([spearmanr(x[:, s], y[:, s]).statistic for s in seeds]),
            "kendall": np.array([kendalltau(x[:, s], y[:, s]).statistic for s in seeds]),
            "of means": np.array([spearmanr(x.mean(1), y.mean(1)).statistic]),
        }


def _losses(result: Mapping[str, Any]) -> list[str]:
    return [name for name in result["students"] if name not in LABELS]


def _softens(loss: str) -> bool:
    return loss in ("ttm", "wttm")


def verdict(result: Mapping[str, Any]) -> list[str]:
    """What the numbers come to, a sentence each."""
    return [*_of_ranks(result), _of_best(result), _of_claims(result)]


def _of_ranks(result: Mapping[str, Any]) -> list[str]:
    said = []
    for loss in _losses(result):
        rho = mean_interval(foretold(result, loss, softened=False)["spearman"])
        ranks = "ranks" if rho.low > 0 else "misranks" if rho.high < 0 else "is not shown to rank"
        said.append(f"The teachers' held-out NLL {ranks} their students under {loss} (Spearman {_ends(rho)}).")
    return said


def _of_best(result: Mapping[str, Any]) -> str:
    """The best student with a teacher, against labels alone, smoothed labels and longer training."""
    every = [(loss, name) for loss in _losses(result) for name in result["teachers"]]
    loss, name = min(every, key=lambda each: _nll(result, *each).mean())
    own, said = _nll(result, loss, name), []
    for rival, label in LABELS.items():
        gap = mean_interval(own - _nll(result, rival, ""))
        is_ = "better than" if gap.high < 0 else "worse than" if gap.low > 0 else "not told apart from"
        said.append(f"{is_} {label} ({_signed(gap)})")
    return f"The best students are those of '{NAMES[name]}' under {loss}: {', '.join(said)}, in nats a token."


def _of_claims(result: Mapping[str, Any]) -> str:
    found = {claim: mean_interval(values) for claim, values in claims(result).items()}
    helps = [claim for claim, gap in found.items() if gap.high < 0]
    harms = [claim for claim, gap in found.items() if gap.low > 0]
    rest = [claim for claim in found if claim not in helps + harms]
    kinds = {"Helps": helps, "harms": harms, "makes no difference that shows": rest}
    return "; ".join(f"{what}: {', '.join(some) or 'nothing'}" for what, some in kinds.items()) + "."


# -- the tables --------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """The verdict, the tables, and how they were made."""
    shown = "; ".join(f"{name} {value}" for name, value in facts({**result, "time_total": None}).items())
    made = f"Made by `{result['command']}`; {shown}."
    if not result["seeds"]:
        return f"No seed is complete yet.\n\n{made}\n"
    parts = [
        "**Verdict**, computed from the tables below:\n\n" + "\n".join(f"- {each}" for each in verdict(result)),
        "**Teachers**\n\n" + _teachers(result),
        "**Students**: test NLL in nats a token\n\n" + _students(result),
        "**Does the teachers' held-out NLL foretell their students' test NLL?**\n\n" + _foretold(result),
        "**Methods**: test NLL of their students less that of others\n\n" + _claims(result),
        NOTE + made,
    ]
    return "\n\n".join(parts) + "\n"


NOTE = (
    "Means over seeds; NLL and entropy in nats a token, differences below 0 are better; ±: half a 95 % interval, "
    "Student's t over paired seeds, bold where it excludes 0, but of the teachers' test NLL and its difference to the "
    "last epoch's over documents. Each method's setting was chosen of three by held-out NLL, by students of the first "
    "seed, of the teacher's best epoch; these are among those shown. Students are scored at the epoch of their best "
    "held-out NLL. Intervals are one at a time. "
)


def _teachers(result: Mapping[str, Any]) -> str:
    rows = []
    for name, found in result["teachers"].items():
        test, last = found["test"], result["teachers"].get("last", {}).get("test")
        against = "" if last is None or name == "last" else _bold(nats_by_document(test, last))
        means = [f"{np.mean(test[key]):.3f}" for key in SCORES[1:]]
        temperature = f"{np.mean(result['temperature']):.2f}" if name in ("last", "calibrated") else ""
        nll = plus_minus(nats_by_document(test), 3)
        rows.append([NAMES[name], f"{np.mean(found['heldout']['nll']):.3f}", nll, against, *means, temperature])
    headers = [
        "teacher",
        "held-out NLL",
        "test NLL",
        "vs last",
        "bits a byte",
        "entropy",
        "calibration error",
        "fitted T",
    ]
    ends = f"\n\nBest epochs: {', '.join(map(str, result['best_epoch']))} of {result['recipe']['epochs'][0]}."
    return markdown_table(headers, rows) + ends


def _students(result: Mapping[str, Any]) -> str:
    rows = []
    for method, teachers in result["students"].items():
        for name, found in teachers.items():
            bits = f"{np.mean(found['best']['bits_per_byte']):.3f}"
            epoch = f"{np.mean(found['best_epoch']):.1f}"
            against = ["" if (method, name) == ("ce", "") else _gain(result, method, name, k) for k in ("best", "last")]
            nll = [plus_minus(mean_interval(_nll(result, method, name, kind)), 3) for kind in ("best", "last")]
            setting = f"{result['chosen']['ce' if method == 'longer' else method]:g}"
            label = [LABELS.get(method, method), NAMES.get(name, ""), setting]
            rows.append([*label, nll[0], bits, against[0], epoch, nll[1], against[1]])
    headers = [
        "student",
        "teacher",
        "setting",
        "test NLL",
        "bits a byte",
        "vs alone",
        "epoch",
        "last epoch",
        "vs alone",
    ]
    return markdown_table(headers, rows)


def _gain(result: Mapping[str, Any], method: str, teacher: str, kind: str) -> str:
    return _bold(mean_interval(gains(result, method, teacher, kind)))


def _foretold(result: Mapping[str, Any]) -> str:
    rows = []
    for loss in _losses(result):
        for softened in (False, True) if _softens(loss) else (False,):
            what = f"{loss}, NLL at its T = {result['chosen'][loss]:g}" if softened else loss
            found = foretold(result, loss, softened=softened)
            cells = [_ends(mean_interval(found[key])) for key in ("spearman", "kendall")]
            rows.append([what, *cells, f"{found['of means'][0]:.2f}"])
    return markdown_table(["students of", "Spearman", "Kendall", "Spearman of means over seeds"], rows)


def _claims(result: Mapping[str, Any]) -> str:
    rows = [[claim, _bold(mean_interval(values))] for claim, values in claims(result).items()]
    return markdown_table(["", "test NLL"], rows)


def _signed(estimate: Estimate) -> str:
    return plus_minus(estimate, 3, sign=True)


def _bold(estimate: Estimate) -> str:
    return f"**{_signed(estimate)}**" if differs(estimate) else _signed(estimate)


def _ends(correlation: Estimate) -> str:
    low, high = (np.clip(end, -1, 1) for end in (correlation.low, correlation.high))
    return f"{correlation.value:.2f} [{low:.2f}, {high:.2f}]"
