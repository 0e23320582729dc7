"""A teacher's record as a candidate, by the held-out samples that are in it."""

from preceptor.errors import InputError
from preceptor.recipe import TeacherRef
from preceptor.records.manifest import MANIFEST
from preceptor.records.reader import HELDOUT, Record
from preceptor.records.samples import trained_on
from preceptor.runs.references import name_of
from preceptor.study.teachers.candidates import Candidate

__all__ = ["read_record"]


def read_record(reference: TeacherRef) -> Candidate:
    """What a record says of its teacher on held-out samples.

    Raises:
        InputError: it has none of these, has not all classes of them, or is damaged.
    """
    folder = reference.run / HELDOUT
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"the record '{reference.run}' has no held-out samples, by which a teacher is assessed; record it with "
            "them (heldout=True), or assess its run"
        )
    record = Record(folder)
    index, manifest = record.ids, record.manifest
    seen = trained_on(reference.run)
    numbers = tuple(map(str, range(manifest.num_classes)))  # what a data set without names has
    return Candidate(
        name_of(reference),
        record.log_probs(index).double().numpy(),
        record.scalars(index).labels.numpy(),
        index.numpy(),
        None if seen is None else seen.numpy(),
        (reference,),
        class_names=None if manifest.class_names in ((), numbers) else manifest.class_names,
    )
