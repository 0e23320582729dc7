"""The page catalogue.md: every loss, read from itself, and from a benchmark's figures what it costs."""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

from preceptor import losses
from preceptor.losses import features
from preceptor.losses.features import FeatureLoss
from preceptor.names import names

COSTS = Path(__file__).parents[1] / "benchmarks" / "feature_losses.json"
PLAIN = """<!-- Generated: python docs/generate.py -->
# Catalogue of losses

What a student can minimise, by the name that a recipe calls it: `loss: SP`, `loss: {name: SP, student: layer2}`, or a
sum `loss: [wttm, {name: CRD, weight: 0.8}]`. Of all of them less is better, and none sends a gradient to the teacher.
Options, and where a paper and its code disagree, stand in the [API](api.md).

## Of the outputs

Weights and temperatures that were published stand in their docstrings; what a teacher is worth under one says
`preceptor assess`.

| loss | what it is | from | value |
|---|---|---|---|
"""
LOOKING = """
## That look into the models

`student` and `teacher` say where they look: names of modules, patterns, `NAME:input`, or the words `penultimate`,
`last`, `stages`, `preactivations` ([what they are](extend.md#a-loss-that-looks-into-the-models)); `preceptor taps
MODEL` lists what there is. Where one ReLU serves twice, as in torchvision's ResNets, `preactivations` is nothing, and
the losses that look there take the last layers instead: `{name: OFD, student: [layer1.1.bn2, layer2.1.bn2, ...]}`.
The teacher is one live model, or its [record](records.md#features-of-inner-modules). Where a recipe gives no weights
they are the published ones; those that a recipe gives for a loss of its own, as the recipes that ship do, are left out
where the command line or a keyword names one of these instead, and a line says so. What a loss has of its own:
*parameters*, trained beside the student's and saved with the run; a *memory* of the samples; *views* of the inputs,
which both models are shown too; first *epochs* of a run. A loss of
[yours](extend.md#a-loss-that-looks-into-the-models) is ten lines.

| loss | what it is | from | value | weight | beside labels | published in | looks at | has |
|---|---|---|---|---|---|---|---|---|
"""
COST = """
## What they cost

A training step beside one with `kd`: its time, the most memory at once, and the parameters of the loss.
{setting}; beside larger models each is a smaller part. `python benchmarks/feature_losses.py`.

| loss | time | memory | parameters |
|---|---|---|---|
"""
PAPER = re.compile(r'(?:(?<=[.:] )|^)([A-Z][^."]*(?: et al\.)?), "([^"]+)" \(([^)]*)\)')


def catalogue_page() -> str:
    """The whole page."""
    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    own = {name for name, each in vars(features).items() if isinstance(each, type) and issubclass(each, FeatureLoss)}
    looking = {name: getattr(features, name) for name in sorted(names("loss"), key=str.lower) if name in own}
    plain = [_row(name, getattr(losses, name), _value(getattr(losses, name))) for name in losses.__all__]
    more = [_row(name, kind, *_of_looking(kind, costs["losses"].get(name, {}))) for name, kind in looking.items()]
    by_time = sorted(looking.keys() & costs["losses"].keys(), key=lambda name: (costs["losses"][name]["time"], name))
    cost = [_cost(name, costs["losses"][name]) for name in by_time]
    return "".join([PLAIN, *plain, LOOKING, *more, COST.format(**costs), *cost])


def _row(name: str, thing: Any, *more: str) -> str:
    doc = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    cells = [f"`{name}`", doc.replace("``", "`"), _paper(thing), *more]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _paper(thing: Any) -> str:
    """Whose it is: from its docstring, or from that of the function that it is a class of."""
    beside = vars(importlib.import_module(thing.__module__)).get(thing.__name__.lower())
    for each in (thing, beside):
        found = PAPER.search(" ".join((inspect.getdoc(each) or "").split())) if each is not None else None
        if found:
            authors, title, where = found.groups()
            linked = re.sub(r"arXiv (\d[\d.]+\d)", r"[\1](https://arxiv.org/abs/\1)", where)
            return f"{authors}, *{title}* ({linked})"
    return "ours"


def _value(thing: Any) -> str:
    called = thing.forward if isinstance(thing, type) else thing
    return "one a batch" if inspect.signature(called).return_annotation.dim_str == "" else "one a sample"


def _of_looking(kind: type[FeatureLoss], cost: dict[str, Any]) -> list[str]:
    weights = kind.published
    unlike = "; ".join(f"{weight:g} of {student}" for student, weight in weights.of_student.items())
    has = {
        "parameters": cost.get("parameters", 0) > 0,
        "memory": hasattr(kind, "end_step"),
        "views": hasattr(kind, "views"),
        "epochs": "init_epochs" in inspect.signature(kind).parameters,
    }
    return [
        "one a batch" if kind.batch_level else "one a sample",
        f"{weights.distill_weight:g}{f' ({unlike})' if unlike else ''}",
        f"{weights.ce_weight:g}",
        weights.source or "no weight published",
        ", ".join(f"`{tap}`" for tap in kind.default_taps) or "the outputs",
        ", ".join(name for name, there in has.items() if there) or "nothing",
    ]


def _cost(name: str, cost: dict[str, Any]) -> str:
    return f"| `{name}` | {cost['time']:.2f} x | {cost['memory']:.2f} x | {cost['parameters']:,} |\n"
