"""A record held to the data and the recipe that a student brings, and what replays its inputs."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from preceptor.data.dataset import require_index
from preceptor.data.ids import ids_of
from preceptor.data.indexed import Indexed
from preceptor.errors import InputError
from preceptor.inputs import equal, tensors_of
from preceptor.notices import note
from preceptor.recipe import Recipe
from preceptor.records import Manifest, Record, difference
from preceptor.records.samples import trained_on
from preceptor.records.teacher import RecordTeacher
from preceptor.records.token_teacher import TokenRecordTeacher
from preceptor.runs.contents import samples_digests
from preceptor.runs.identity import feed_array
from preceptor.tasks.teacher import Function, TeacherFn, leaves
from preceptor.training.checks.leaks import refuse_seen
from preceptor.training.checks.probe import spread
from preceptor.training.data.batches import Batch, Batches, Replay
from preceptor.training.data.cohort import changes_of
from preceptor.training.data.samples import Samples
from preceptor.training.data.streams import Streams
from preceptor.training.teachers.token_replay import digests_of_tokens, replay_of_tokens

_FEW = 32
_SHOWN = ("input", "index of the partner", "share of its own")


def record_of(teacher: TeacherFn) -> Record | None:
    """The record that a teacher, which is not made of others, looks its answers up in."""
    function = teacher.function if isinstance(teacher, Function) else teacher
    return function.record if isinstance(function, RecordTeacher) else None


def replay_of(teacher: TeacherFn, recipe: Recipe, samples: Samples) -> Replay | None:
    """What shows a student the inputs again that a record's teacher was shown; None for a teacher without records.

    Raises:
        InputError: a record of other data, classes or changes of the samples, naming the first that differs; one that
            lacks samples; or two records whose teachers were shown unlike inputs.
    """
    records = [record for leaf in leaves(teacher) if (record := record_of(leaf)) is not None]
    if not records:
        return None
    first, *others = records
    for record in records:
        _refuse_unfinished(record)
    if samples.are_tokens:
        functions = [leaf.function for leaf in leaves(teacher) if isinstance(leaf, Function)]
        tokens = [each for each in functions if isinstance(each, TokenRecordTeacher)]
        replay = replay_of_tokens(tokens, samples, _described(recipe, samples))
        for record in records:
            _note_versions(record)
        return replay
    replay = replay_by(first.manifest, first.ids)
    for other in others:
        one, another = (replay_by(each.manifest, each.ids) for each in (first, other))
        drawn_alike = one.streams.seeds["augmentation"] == another.streams.seeds["augmentation"]
        if not drawn_alike or one.views != another.views or not torch.equal(one.indices, another.indices):
            raise InputError(
                f"the records '{first.folder}' and '{other.folder}' were made with unlike draws, views or samples, so "
                "that no input is that of both; record the ensemble as one teacher"
            )
    found = described(recipe, samples, replay)
    for record in records:
        _refuse_other(record, found)
        trained = trained_on(record.folder)
        if trained is not None:
            refuse_seen(record.folder, trained, samples)
        _refuse_missing(record, samples.for_students)
    return replay


def told_records(teacher: TeacherFn) -> dict[str, Any]:
    """What a run's result says of the records that it was taught from: nothing where there are none."""
    records = [record for leaf in leaves(teacher) if (record := record_of(leaf)) is not None]
    told = [
        {"folder": str(each.folder), "form": each.manifest.form.kind, "views": each.views, "samples": len(each)}
        for each in records
    ]
    return {"record": told} if told else {}


def replay_by(manifest: Manifest, indices: Tensor) -> Replay:
    """What replays the inputs of a record: its seed's draws, for these samples."""
    return Replay(Streams(manifest.seed, manifest.streams), manifest.views, indices)  # type: ignore[arg-type]


def batches_of(
    recipe: Recipe,
    samples: Samples,
    replay: Replay,
    device: torch.device | str = "cpu",
    *,
    num_workers: int | Literal["auto"],
) -> Batches:
    """The samples of a record as its teacher is, or was, shown them."""
    augmentation, mixing = changes_of(recipe, samples.data)
    return Batches(
        samples.train,
        replay.indices,
        recipe.training.batch_size,
        replay.streams,
        augmentation=augmentation,
        mixing=mixing,
        num_workers=num_workers,
        device=device,
        replay=replay,
    )


def described(recipe: Recipe, samples: Samples, replay: Replay) -> dict[str, Any]:
    """What a manifest says of samples and of what is done to them, by the names of its fields; ``data`` is of its
    identity.

    Raises:
        InputError: samples that cannot be shown again.
    """
    if samples.are_tokens:
        return _described(recipe, samples) | {"data": digests_of_tokens(samples, replay.indices)}
    batches = batches_of(recipe, samples, replay, num_workers=0)
    return _described(recipe, samples) | {"data": _data_digests(samples, batches, replay)}


def _described(recipe: Recipe, samples: Samples) -> dict[str, Any]:
    data = samples.data
    dump = lambda named: None if named is None else named.model_dump(mode="json")  # noqa: E731
    return {
        "num_classes": data.num_classes,
        "class_names": data.class_names,
        "preprocessing": dict(data.preprocessing),
        "augmentation": dump(recipe.augmentation),
        "mixing": dump(recipe.mixing),
    }


def _refuse_unfinished(record: Record) -> None:
    wanted = record.manifest.num_samples or len(record)
    for view in range(record.views):
        found = len(record.ids_of(view))
        if found != wanted:
            raise InputError(
                f"the record '{record.folder}' is not complete: view {view} has {found} of {wanted} samples; run the "
                "command that records it again, and it goes on"
            )


def _refuse_missing(record: Record, wanted: Tensor) -> None:
    for view in range(record.views):
        lacking = wanted[~torch.isin(wanted, record.ids_of(view))]
        if len(lacking):
            raise InputError(
                f"the record '{record.folder}' lacks {len(lacking)} of the {len(wanted)} training samples in view "
                f"{view} (the first: {int(lacking[0])}); give the student the split and seed that were recorded "
                f"(streams={{split: {record.manifest.streams.get('split', 0)}}})"
            )


def _refuse_other(record: Record, found: Mapping[str, Any]) -> None:
    """Refuse a record of other classes, data or changes of them than a student brings (`described`)."""
    manifest = record.manifest
    if not manifest.identity.data:
        raise InputError(
            f"the record '{record.folder}' does not say which data it is of (its manifest lacks identity.data); for a "
            "run of ours let preceptor record write it, and for a loop of your own take RecordTeacher"
        )
    identity = manifest.identity.model_copy(update={"data": found["data"]})
    rest = {name: value for name, value in found.items() if name != "data"}
    asked = manifest.model_copy(update=rest | {"identity": identity})
    problem = difference(manifest, asked, "in the record", "for the student")
    if problem:
        raise InputError(
            f"the record '{record.folder}' does not fit: {problem}; give the student what was recorded, or record anew"
        )
    _note_versions(record)


def _note_versions(record: Record) -> None:
    versions = {"torch": str(torch.__version__)}
    for name, version in versions.items():
        then = record.manifest.identity.versions.get(name, version)
        if then != version:
            note(f"the record '{record.folder}' was made with {name} {then}, and this is {version}")


# -- the samples -------------------------------------------------------------------------------------------------------


def _data_digests(samples: Samples, batches: Batches, replay: Replay) -> dict[str, str]:
    """What tells a training set, and what is done to it, from others, by what is digested."""
    require_index(samples.data.train, "a record")
    few = torch.tensor(spread(replay.indices, _FEW))
    views = range(min(replay.views, 2))
    for view in views:
        _refuse_what_cannot_be_replayed(batches, few, view, samples.data.train)
    ids = ids_of(samples.train)
    found = {"samples": str(len(samples.train)), "labels": _digest([samples.labels])}
    if ids is not None:
        found["ids"] = _digest([torch.frombuffer(bytearray("\0".join(ids).encode()), dtype=torch.uint8)])
    found |= samples_digests(samples.data.train)
    raw = (each for view in views for each in tensors_of(_read(batches.dataset, few, view)["input"]))
    found["inputs of a few"] = _digest(raw)
    draws = [rows[few.to(rows.device)] for view in views for rows in batches.drawn(view)]
    return found | ({"draws of a few": _digest(draws)} if draws else {})


def _refuse_what_cannot_be_replayed(batches: Batches, few: Tensor, view: int, dataset: Any) -> None:
    """Refuse a data set, an augmentation or a mixing that is another when it is asked again; a few samples are read."""
    one, other = (_read(batches.dataset, few, view) for _ in range(2))
    if not _same(one, other):
        raise InputError(
            f"the data set, a {type(dataset).__name__}, gives another sample when it is read again in the same epoch, "
            "so that it cannot be replayed; let it draw from the global generators of torch, numpy or random, which "
            "are seeded for each sample"
        )
    drawn = [batches.drawn(view) for _ in range(2)]
    shown = [next(iter(batches.made([few], view))) for _ in range(2)]
    if not all(map(torch.equal, *drawn)) or not _same(*shown):
        changes = (batches.augmentation, batches.mixing)
        names = " or ".join(f"'{type(each).__name__}'" for each in changes if each is not None)
        raise InputError(
            f"what {names} does to a sample is another when it is done again, so that it cannot be replayed; draw from "
            "the generator that draw(num_samples, generator) is given, and from nothing in apply"
        )


def _read(dataset: Indexed, indices: Tensor, epoch: int) -> Batch:
    kept = dataset.epoch
    try:
        dataset.epoch = epoch
        return dataset[indices]
    finally:
        dataset.epoch = kept


def _same(one: Batch, other: Batch) -> bool:
    return all(equal(one[name], other[name]) for name in _SHOWN if name in one)


def _digest(arrays: Iterable[Tensor]) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        feed_array(sha, array)
    return f"sha256:{sha.hexdigest()}"
