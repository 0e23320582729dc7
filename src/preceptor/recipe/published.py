"""The weights of losses where a recipe names none: as they were published."""

from typing import Any

from preceptor.schema import SUM, by_name, several_by_name

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


def _name(said: Any) -> str:
    """The name of a component, as a mapping or made."""
    name = said.get("name") if isinstance(said, dict) else getattr(said, "name", "")
    return name if isinstance(name, str) else ""
