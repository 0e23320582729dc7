"""The weights of losses where a recipe names none: as they were published."""

from collections.abc import Collection, Mapping
from typing import Any

from preceptor.notices import note
from preceptor.schema import SUM, by_name, several_by_name

WEIGHTS: tuple[str, ...] = ("ce_weight", "distill_weight")
USUAL: dict[str, float] = {"ce_weight": 0.1, "distill_weight": 0.9}
"""The weights of a loss of the outputs and of that to the labels, where nobody says others."""
_BESIDE_LABELS = {"ce_weight": 1.0, "distill_weight": 1.0}


def published_weights(loss: Any, model: Any = None) -> dict[str, float]:
    """The weights of a loss and of that to the labels; nothing where these are a recipe's own defaults.

    Args:
        loss: as a recipe says it.
        model: the student's, likewise, as some losses are weighed by it.

    >>> published_weights("kd"), published_weights(["kd", "wttm"])
    ({}, {'ce_weight': 1.0, 'distill_weight': 1.0})
    """
    said = _name(several_by_name(loss))
    return dict(_BESIDE_LABELS) if said == SUM else published_of(said, _name(by_name(model))) or {}


def published_of(loss: str, student: str = "") -> dict[str, float] | None:
    """The weight of a loss that looks into the models, and of that to the labels beside it; None of any other."""
    if not loss[:1].isupper() or ":" in loss:  # ours, and then a class
        return None
    from preceptor.losses import features  # torch is not needed to read other recipes

    kind = getattr(features, loss, None)
    if isinstance(kind, type) and issubclass(kind, features.FeatureLoss):
        return kind.weights(student)
    return None


def weighed_parts(loss: Any, model: Any = None) -> Any:
    """A loss as a recipe says it; of a sum with each part's weight written out: as given, else as published, else 1.

    >>> weighed_parts(["kd", {"name": "wttm", "weight": 2.0}])["parts"]
    [{'name': 'kd', 'weight': 1.0}, {'name': 'wttm', 'weight': 2.0}]
    """
    said = several_by_name(loss)
    if _name(said) != SUM:
        return loss
    whole: dict[str, Any] = said if isinstance(said, dict) else {"name": SUM, **getattr(said, "options", {})}
    parts = whole.get("parts")
    if not isinstance(parts, list | tuple):
        return loss
    student = _name(by_name(model))
    return {**whole, "parts": [_weighed(by_name(part), student) for part in parts]}


def without_published(loss: Any, model: Any = None) -> Any:
    """A loss as a made recipe has it, of a sum without the weights that its parts have of themselves."""
    said = several_by_name(loss)
    if not isinstance(said, dict) or _name(said) != SUM:
        return loss
    student = _name(by_name(model))
    bare = [{key: value for key, value in part.items() if key != "weight"} for part in said["parts"]]
    pairs = zip(bare, said["parts"], strict=True)
    return {**said, "parts": [one if _weighed(one, student) == part else part for one, part in pairs]}


def _weighed(part: Any, student: str) -> Any:
    """With a weight; what is no part of a sum is refused later."""
    if not isinstance(part, dict) or part.get("weight") is not None or not isinstance(part.get("name"), str):
        return part
    published = published_of(part["name"], student)
    return {**part, "weight": 1.0 if published is None else published["distill_weight"]}


def with_own_weights(raw: Mapping[str, Any], before: Mapping[str, Any], said: Collection[str]) -> dict[str, Any]:
    """A recipe whose loss has become another, without the weights that were written for the one before; this is noted.

    Between losses of the outputs, which are weighed alike, weights carry over.

    Args:
        raw, before: the recipe as it is, and as it was before anything was laid over it.
        said: the keys that were laid over it.

    >>> with_own_weights({"loss": "wttm", "ce_weight": 0.5}, {"loss": "kd", "ce_weight": 0.5}, ["loss"])
    {'loss': 'wttm', 'ce_weight': 0.5}
    """
    was, now = (_name(several_by_name(each.get("loss"))) for each in (before, raw))
    published = published_weights(raw.get("loss"), raw.get("model"))
    if not was or not now or was == now or not (published or published_weights(before["loss"], before.get("model"))):
        return dict(raw)
    dropped = {key: raw[key] for key in WEIGHTS if key in before and key not in said}
    note_dropped(dropped, {key: {**USUAL, **published}[key] for key in dropped}, was, now)
    return {key: value for key, value in raw.items() if key not in dropped}


def note_dropped(dropped: Mapping[str, Any], ours: Mapping[str, float], was: str, now: str) -> None:
    """Say which weights were of the loss before, and which the one now has instead."""
    if dropped != ours:
        theirs, own = (" ".join(f"{key}={value}" for key, value in each.items()) for each in (dropped, ours))
        note(f"{theirs} of the recipe are for '{was}', and '{now}' has its own, {own}; say others beside it")


def _name(said: Any) -> str:
    """The name of a component, as a mapping or made."""
    name = said.get("name") if isinstance(said, dict) else getattr(said, "name", "")
    return name if isinstance(name, str) else ""
