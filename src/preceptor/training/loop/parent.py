"""More epochs of a finished run, as a new run: what it takes from the one before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from preceptor import runs
from preceptor.errors import InputError
from preceptor.names import Trust, named_in
from preceptor.recipe import Recipe, override
from preceptor.recipe.keywords import make_recipe
from preceptor.runs import checkpoint, files

R = TypeVar("R", bound=Recipe)


def longer(
    kind: type[R],
    run: Any,
    epochs: int,
    keywords: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    *,
    trust: Trust = False,
) -> R:
    """The recipe of a finished run for so many epochs more, which names the run as its parent.

    Args:
        kind: of recipe.
        run: the folder of a complete run.
        epochs: how many more, at least 1.
        keywords, assignments: laid over it; schedule, ``lr`` and ``patience`` may differ from the parent's.
        trust: which code may be imported because the run names it.

    Raises:
        InputError: no complete run of this verb, no such number, or a run that names code of somebody's.
    """
    if not isinstance(run, str | Path) or not Path(run).is_dir():
        raise InputError(
            f"more epochs are those of a finished run, and {str(run)!r} is no folder of one; give that in place of the "
            "recipe"
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"more_epochs is {epochs!r}; give a whole number of at least 1", argument="more_epochs")
    parent, trained = Path(run), runs.epochs_of(Path(run))
    found = runs.read_recipe(parent)
    if not isinstance(found, kind):
        raise InputError(f"the run '{parent}' is one of {found.verb}; go on with preceptor {found.verb}")
    raw = found.model_dump(mode="json")
    raw["parent"], raw["training"]["epochs"] = str(parent), trained + epochs
    made = make_recipe(kind, override(raw, assignments), keywords or {})
    asked, trusted = f"{keywords} {assignments}", [trust] if isinstance(trust, str) else trust or ()
    unasked = sorted(name for name in named_in(made) if name not in asked)
    for name in [] if trust is True else unasked:
        if name not in trusted:  # type: ignore[operator]
            raise InputError(
                f"the run '{parent}' names code, '{name}', which is not imported unasked; give trust=True if you trust "
                "it",
                argument="trust",
            )
    return made


def last_checkpoint(run: Path) -> Path:
    """Where the state is that a complete run ended with.

    Raises:
        InputError: it has none left.
    """
    found = checkpoint.saved(run / "checkpoints")
    if not found:
        raise InputError(f"the run '{run}' has no checkpoint left to go on from; put back its folder 'checkpoints'")
    return found[-1]


def parent_digest(run: Path) -> dict[str, str]:
    """The SHA-256 of that state, weights and optimizer, by the name of the run."""
    state = files.read_json(last_checkpoint(run) / "state.json")
    return {str(run): f"sha256:{state.get('sha256')}"}
