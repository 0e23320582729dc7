"""What tells apart the criteria that callers hand over as objects: what they were, whatever a run has made of them.

A run builds parts of a criterion, trains them and lets it remember samples. The same object, or one made again in the
same way, goes on with the run all the same; one that somebody has changed is another.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from preceptor.runs.identity import criterion_fingerprint

# Of each criterion that a run has used: its fingerprint before that, and what the run has left it with.
_used: "WeakKeyDictionary[nn.Module, tuple[str, str]]" = WeakKeyDictionary()


def known_by(criterion: Any) -> Any:
    """The fingerprint of a module, as it was handed over; anything else as it is."""
    if not isinstance(criterion, nn.Module):
        return criterion
    now = criterion_fingerprint(criterion)
    before, after = _used.get(criterion, (now, now))
    return before if now == after else now


@contextmanager
def known_as_given(*objects: Mapping[str, Any]) -> Iterator[None]:
    """Let a run change the criteria among some objects, by role, without making others of them."""
    before = {module: known_by(module) for given in objects for module in _modules(given)}
    try:
        yield
    finally:
        _used.update({module: (name, criterion_fingerprint(module)) for module, name in before.items()})


def _modules(given: Mapping[str, Any]) -> Iterator[nn.Module]:
    for role in ("objective", "loss", "label_loss"):
        thing = given.get(role)
        parts = [part for part, _ in thing] if isinstance(thing, list) else [thing]
        yield from (part for part in parts if isinstance(part, nn.Module))
