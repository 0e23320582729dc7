"""Teachers by name: ``RUN``, ``RUN:best``, ``RUN:epoch-4:member-2``, ``A+B``, files of logits (docs/teachers.md)."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import Schedule, TeacherRef, parse
from preceptor.runs.folder import epochs_of, read_members, read_recipe, read_result
from preceptor.runs.integrity import RECORD
from preceptor.runs.weights import kept_epochs

Source = Path | TeacherRef
"""A file of logits, or a run's teacher."""

_LONGEST = 255  # bytes of a name, which file systems take
_SHARE = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE]-?\d+)?")  # a path may end so: what exists is a path
Kind = Literal["run", "record", "pretrained", "file"]
"""A run's folder, a teacher's recorded outputs, a model that transformers has saved, a file of outputs."""

_WEIGHTS = ("last", "best", "average", "teaching")
_MOMENTS = {"weights", "epoch"}
_EPOCHS, _SNAPSHOTS, _MEMBERS = "epochs", "snapshots", "members"  # of several teachers each


@dataclass(frozen=True)
class Term:
    """One term of an ensemble, or the one there is."""

    sources: list[Source]
    """One teacher or, of ``RUN:epochs``, ``RUN:snapshots`` and ``RUN:members``, several."""
    weight: float | None = None
    """Its share in the ensemble; of all terms they have the sum 1. None weighs all sources alike."""
    mixed: bool = False
    """Several sources are one teacher, the mean of their probabilities, and not one each."""

    @property
    def weighted(self) -> list[tuple[Source, float | None]]:
        """The sources, each with its share."""
        share = None if self.weight is None else self.weight / len(self.sources)
        return [(source, share) for source in self.sources]


def teacher_references(name: str) -> list[TeacherRef]:
    """What a student's recipe calls the teacher that ``assess`` calls `name`: several are an ensemble.

    Raises:
        InputError: it is no run and no file, or all epochs of a run.
    """
    terms = terms_of(name)
    if any(len(term.sources) > 1 and not term.mixed for term in terms):
        raise InputError(
            f"'{name}' stands for several teachers, an epoch each; name one epoch, such as RUN:epoch-4, or have one "
            "chosen",
            argument=f"teacher auto {name}",
        )
    found: list[TeacherRef] = []
    for source, share in (each for term in terms for each in term.weighted):
        reference = parse(TeacherRef, {"run": str(source)}) if isinstance(source, Path) else source
        found.append(reference if share is None else reference.model_copy(update={"weight": share}))
    return found


def terms_of(name: str) -> list[Term]:
    """The terms of an ensemble, or the one there is: ``A+B``, or with weights ``A:0.7+B:best:0.3``.

    Raises:
        InputError: a term that is no run or file, or a weight that is not positive, or that others lack.
    """
    parts, found = name.split("+"), list[Term]()
    while parts:
        for count in range(len(parts), 0, -1):  # the longest, as a path may hold a plus of its own
            term = _term("+".join(parts[:count]))
            if term is not None:
                break
        else:
            raise InputError(
                f"there is no run folder or file '{parts[0]}'; give a run folder or a .npz, .npy or .parquet file"
            )
        found.append(term)
        parts = parts[count:]
    return _normalized(name, found)


def _normalized(name: str, terms: list[Term]) -> list[Term]:
    """The terms with weights whose sum is 1, if they have any."""
    weights = [term.weight for term in terms if term.weight is not None]
    if not weights:
        return terms
    if len(terms) == 1:
        raise InputError(f"'{name}' is one teacher with a weight; leave the weight out, or write such as A:0.7+B:0.3")
    if len(weights) < len(terms):
        raise InputError(f"'{name}' gives some of its teachers a weight and others none; write such as A:0.7+B:0.3")
    total = math.fsum(weights)
    return [replace(term, weight=weight / total) for term, weight in zip(terms, weights, strict=True)]


def kind_of(path: Path) -> Kind:
    """What a path holds that teaches: a run unless it is something else."""
    if path.is_file():
        return "file"
    if (path / RECORD).is_file():
        return "record"
    return "pretrained" if (path / "config.json").is_file() and not (path / "recipe.yaml").exists() else "run"


def _term(name: str) -> Term | None:
    """What a term stands for: a file, or the record or run that its longest part names, with selectors after colons."""
    if max(len(part.encode()) for part in name.split("/")) > _LONGEST:  # to ask for it is an error of the system's
        return None
    parts = name.split(":")  # a path may hold colons of its own
    for count in range(len(parts), 0, -1):
        start = ":".join(parts[:count])
        shares = [part for part in parts[count:] if _SHARE.fullmatch(part)]
        selectors = [part for part in parts[count:] if part not in shares]
        if Path(start).is_file() and not selectors:
            return Term([Path(start)], _weight(name, shares))
        if start and Path(start).is_dir():
            if kind_of(Path(start)) != "run" and not selectors:
                return Term([parse(TeacherRef, {"run": start})], _weight(name, shares))
            if any("+" in selector for selector in selectors):
                return None  # an ensemble, of which this run is the first
            found = _references(Path(start), selectors)
            return Term([*found], _weight(name, shares), mixed=_EPOCHS not in selectors)
    return None


def _weight(name: str, shares: Sequence[str]) -> float | None:
    if len(shares) > 1:
        raise InputError(f"'{name}' has two weights, {' and '.join(shares)}; give one")
    weight = float(shares[0]) if shares else None
    if weight is not None and not 0 < weight < math.inf:
        raise InputError(f"the weight of '{name}' is {shares[0]}; give a number above 0, such as 0.3")
    return weight


def _references(run: Path, selectors: Sequence[str]) -> list[TeacherRef]:
    """The teachers that ``RUN:selector:selector`` stands for."""
    kind = kind_of(run)
    if kind != "run":
        what = "a record" if kind == "record" else "a model of transformers"
        raise InputError(f"'{run}' is {what}, which has no weights, epochs or members; leave ':{selectors[0]}' out")
    result, chosen = read_result(run), dict[str, Any]()
    for selector in selectors:
        key, value = _choice(run, selector)
        if key in chosen or (key in _MOMENTS and chosen.keys() & _MOMENTS):
            raise InputError(f"'{run}:{':'.join(selectors)}' names two moments or members of the run; give one")
        chosen[key] = value
    if "posterior" in result and "member" not in chosen:
        chosen["member"] = _members(run)
    each = [key for key, value in chosen.items() if isinstance(value, list)]
    values = itertools.product(*(chosen[key] for key in each))
    return [parse(TeacherRef, chosen | {"run": str(run)} | dict(zip(each, some, strict=True))) for some in values]


def _epochs(run: Path, selector: str) -> list[int]:
    """The epochs that a run has kept; of ``snapshots`` under a cyclic schedule those that end a cycle."""
    kept = list(kept_epochs(run))
    if len(kept) < 2:
        raise InputError(
            f"the run '{run}' has kept {len(kept)} of its epochs; train with training.keep=all to keep them"
        )
    recipe = read_recipe(run)
    ends = recipe.schedule.cycle_ends(recipe.training.epochs) if isinstance(recipe.schedule, Schedule) else ()
    if selector == _EPOCHS or not ends:
        return kept
    reached = [epoch for epoch in ends if epoch <= epochs_of(run)]
    missing = [epoch for epoch in reached if epoch not in kept]
    if missing or not reached:
        raise InputError(
            f"the run '{run}' has not kept epoch {(missing or ends)[0]}, in which a cycle of its schedule ends; train "
            "with training.keep=all to keep every epoch"
        )
    return reached


def _members(run: Path) -> list[int]:
    """The numbers of a stack's models."""
    members = read_members(run)
    if not members:
        raise InputError(
            f"'{run}:{_MEMBERS}' names the models of a stack, and the run holds a single one; leave it out"
        )
    return list(range(len(members)))


def _choice(run: Path, selector: str) -> tuple[str, Any]:
    """The key of a `TeacherRef` that a selector sets, and its value: a list of several, for a teacher each."""
    if selector == "calibrated":
        return "calibrated", True
    if selector in (_EPOCHS, _SNAPSHOTS):
        return "epoch", _epochs(run, selector)
    if selector == _MEMBERS:
        return "member", _members(run)
    numbered = re.fullmatch(r"(epoch|member)-(\d+)", selector)
    if numbered:
        return numbered[1], int(numbered[2])
    if selector in _WEIGHTS:
        return "weights", selector
    known = [*_WEIGHTS, "calibrated", _EPOCHS, _SNAPSHOTS, _MEMBERS, "epoch-1", "member-0"]
    raise InputError(f"'{run}:{selector}' names no weights of the run; {did_you_mean(selector, known)}")


def name_of(reference: TeacherRef) -> str:
    """A reference as it is written on the command line."""
    moment = f"epoch-{reference.epoch}" if reference.epoch is not None else reference.weights
    selectors = [moment] if moment != "last" else []
    selectors += ["calibrated"] if reference.calibrated else []
    selectors += [f"member-{reference.member}"] if reference.member is not None else []
    return ":".join([str(reference.run), *selectors])
