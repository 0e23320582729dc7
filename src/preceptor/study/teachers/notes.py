"""What a reader should know before believing an assessment."""

from collections.abc import Mapping, Sequence

from preceptor.assess.forecasts import Array
from preceptor.recipe import TeacherRef
from preceptor.study.teachers.candidates import Candidate
from preceptor.study.teachers.known import Known

__all__ = ["notes_on", "on_selected"]


def notes_on(candidates: Sequence[Candidate], known: Known, ids: Array | None) -> tuple[str, ...]:
    """What was left unchecked, or flatters; `ids` are those given beside the candidates' own."""
    labels, found = known.heldout.labels, [*known.heldout.notes]
    if known.partly:
        found.append(
            "Of some samples that students learn from fewer than two raters or no truth is known, so scores there are "
            "Brier scores and not distances; give counts or a truth for all of them to have distances."
        )
    found += on_selected({c.name: c.references for c in candidates})
    if ids is not None or any(c.ids is not None for c in candidates):
        unchecked = [c.name for c in candidates if c.ids is None and c.labels is None]
        if unchecked:
            found.append(
                f"The order of the samples of {_listed(unchecked)} could not be checked, as neither ids nor labels "
                "came with the logits: in another order than that of the other teachers, the scores mean nothing."
            )
    for candidate in candidates:
        own = candidate.labels
        if own is not None and own.shape == labels.shape and (own != labels).any():
            found.append(
                f"The labels given differ from those of {candidate.name} in {(own != labels).sum()} samples; "
                "those given were used."
            )
        if candidate.unseen is not None:
            found.append(f"No score of {candidate.name} where students learn: {candidate.unseen.rstrip('.')}.")
    return tuple(found)


def on_selected(references: Mapping[str, Sequence[TeacherRef]]) -> tuple[str, ...]:
    """A note where teachers, by name, were selected on the samples that they are scored on."""
    selected = [name for name, found in references.items() if any(map(_fitted_here, found))]
    if not selected:
        return ()
    return (
        f"The weights or the temperature of {_listed(selected)} were selected on these held-out samples, so their "
        "scores here are too good, by a little; to rank them without bias, score them on labels that selected "
        "nothing.",
    )


def _fitted_here(reference: TeacherRef) -> bool:
    return reference.weights in ("best", "teaching") or reference.calibrated


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
