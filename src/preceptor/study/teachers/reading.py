"""The teachers that ``preceptor assess`` is given, read: runs, their checkpoints, files of logits, ensembles."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from preceptor import assess, runs
from preceptor.assess.forecasts import to_numpy
from preceptor.data import tables
from preceptor.data.dataset import Data, Indexed, labels_of
from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.outputs import read_logits
from preceptor.recipe import Recipe, TeacherRef
from preceptor.runs.contents import distinct, same_teacher
from preceptor.runs.references import Source, Term, kind_of, name_of, terms_of
from preceptor.schema import Component
from preceptor.study.teachers.candidates import Candidate, Predictions
from preceptor.study.teachers.ensembles import ensemble
from preceptor.study.teachers.recorded import read_record
from preceptor.training.data.samples import load_data
from preceptor.training.engine.device import make_accelerator
from preceptor.training.engine.progress import progress_bar
from preceptor.training.scoring.evaluate import predict, refuse_not_finite

__all__ = ["read_candidates"]

T = TypeVar("T")
# Weights whose held-out predictions a run has stored.
_STORED = ("last", "best", "average")


def read_candidates(
    names: Sequence[str | Path],
    *,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: runs.Factory | str | None = None,
    trust: Trust = False,
    probabilities: bool = False,
    transfer: bool | None = False,
    progress: bool = False,
) -> list[Candidate]:
    """Read teachers by name.

    ``RUN`` is a run folder's last weights; ``RUN:best`` and ``RUN:average`` are others; ``RUN:epoch-4`` the weights
    after four epochs, ``RUN:calibrated`` those at the temperature that the run has fitted (``calibrate=true``; also
    ``RUN:best:calibrated``), and ``RUN:epochs`` all epochs that the run has kept (``training.keep=all``), each a
    candidate of its own; ``RUN:member-2`` and ``RUN:best:member-2`` one model of a stack. ``RUN:snapshots`` is the mean
    of the kept epochs (under a cyclic schedule of the ends of its cycles), ``RUN:members`` that of all models of a
    stack, of a posterior's samples say. ``FILE.npz``, ``FILE.npy``
    and ``FILE.parquet`` hold logits (`preceptor.data.tables.read_table`). ``A+B+C`` is the ensemble of
    these: the mean of their probabilities; ``A:0.7+B:0.3`` is a weighted mean.

    Predictions of ``last``, ``best`` and ``average`` weights for held-out samples are those that the run has stored;
    all others are computed from the weights on the run's data set. Nothing is written.

    Args:
        names: see above.
        data: your own data set, in place of the one that the runs' recipes name.
        data_dir: where the data set's files are, in place of the recipes' ``data.data_dir``.
        model: what makes the model of runs that were trained with one of your own, or its ``package.module:name``.
        trust: import models and data sets of somebody's own that runs name (True, or these names).
        probabilities: the files hold probabilities.
        transfer: predict the samples that students learn from, too. None does so where the model and data can be had,
            and otherwise notes why not in `Candidate.unseen`.
        progress: show a progress bar.

    A run under two names (a link, another path, a copy) counts once, as noted; so does a file under two paths.

    Raises:
        InputError: a file or run that cannot be read, weights or an epoch that is not there, a data set that is not the
            one of the run, or members of an ensemble that predict other samples.
    """
    groups = [terms_of(str(name)) for name in names]
    named = [each for name, group in zip(names, groups, strict=True) for each in _wanted(str(name), group)]
    wanted = _once(named, lambda each: each.same, lambda each: each.name)
    sources = [source for each in wanted for source in each.members]
    loader = _Loader(data, data_dir, model, trust, probabilities, transfer, _file_names(sources))
    read: list[Candidate] = []
    with progress_bar("reading teachers", enabled=progress and any(isinstance(s, TeacherRef) for s in sources)) as step:
        for source in sources:
            read.append(loader.read(source))
            step(len(read), len(sources), {})
    following, found = iter(read), []
    for each in wanted:
        members = [next(following) for _ in each.members]
        found.append(ensemble(each.name, members, each.weights) if each.is_ensemble else members[0])
    repeated = {c.name for c in found if sum(other.name == c.name for other in found) > 1}
    if repeated:
        raise InputError(f"'{min(repeated)}' is given twice; give each teacher once")
    return found


@dataclass(frozen=True)
class _Wanted:
    """A candidate to be read: the sources that it is the mean of, or the only one."""

    name: str
    members: list[Source]
    is_ensemble: bool
    weights: list[float] | None = None
    """One a member; None weighs all alike."""

    @property
    def same(self) -> Hashable:
        """What two candidates have in common if they are one under two names."""
        return frozenset(zip(map(_same, self.members), self.weights or [1.0] * len(self.members), strict=True))


def _wanted(name: str, terms: list[Term]) -> list[_Wanted]:
    if len(terms) == 1 and (len(terms[0].sources) == 1 or not terms[0].mixed):  # each epoch of RUN:epochs by itself
        return [_Wanted(_called(source), [source], False) for source in terms[0].sources]
    pairs = [pair for term in terms for pair in term.weighted]
    once = _once(pairs, lambda pair: _same(pair[0]), lambda pair: _called(pair[0]))
    weights = [share for _, share in once if share is not None]
    return [_Wanted(name, [source for source, _ in once], True, weights or None)]


def _once(given: list[T], key: Callable[[T], Hashable], name: Callable[[T], str]) -> list[T]:
    """Each teacher once, whatever its names; one that is given twice under one name is refused once it is read."""
    names = [name(each) for each in given]
    return distinct(given, key, name) if len({*names}) == len(names) else given


def _same(source: Source) -> Hashable:
    """What two sources have in common if they are one under two names."""
    return source.resolve() if isinstance(source, Path) else same_teacher(source)


def _called(source: Source) -> str:
    return str(source) if isinstance(source, Path) else name_of(source)


def _file_names(sources: Sequence[Source]) -> dict[Path, str]:
    """A file is called by its stem, or by its path where two files have one stem."""
    paths = {source for source in sources if isinstance(source, Path)}
    stems = [path.stem for path in paths]
    return {path: path.stem if stems.count(path.stem) == 1 else str(path) for path in paths}


class _Loader:
    """Reads one source after another; each data set is loaded once."""

    def __init__(
        self,
        data: Any,
        data_dir: Path | str | None,
        model: runs.Factory | str | None,
        trust: Trust,
        probabilities: bool,
        transfer: bool | None,
        file_names: Mapping[Path, str],
    ) -> None:
        self.data, self.data_dir, self.model, self.file_names = data, data_dir, model, file_names
        self.trust, self.probabilities, self.transfer = trust, probabilities, transfer
        self._loaded: dict[str, tuple[Data, Tensor]] = {}

    def read(self, source: Source) -> Candidate:
        """One teacher."""
        if isinstance(source, Path):
            return self._read_file(source)
        kind = kind_of(source.run)
        if kind == "pretrained":
            raise InputError(
                f"'{source.run}' is a model of transformers, of which no held-out predictions are stored; record it on "
                f"your data first: preceptor record {source.run} --recipe RECIPE --out FOLDER"
            )
        return read_record(source) if kind == "record" else self._read_run(source)

    def _read_file(self, path: Path) -> Candidate:
        name, table = self.file_names[path], tables.read_table(path)
        if table.logits is None:
            raise InputError(f"'{path}' has no 'logits', and is no teacher; give a file with a teacher's logits")
        logits = table.logits
        if self.probabilities:
            what = f"The probabilities of teacher {name!r}"
            logits = assess.forecast(logits, probabilities=True, what=what).log_probs
        return Candidate(
            name,
            logits,
            table.labels,
            table.ids,
            counts=table.counts,
            truth=table.truth,
            groups=table.groups,
            weights=table.weights,
        )

    def _read_run(self, reference: TeacherRef) -> Candidate:
        weights, _ = runs.teacher_weights(reference)
        parts = runs.parts_of(reference.run, reference.member)
        computed = reference.epoch is not None or reference.weights not in _STORED
        wanted = {"heldout"} if computed else set()
        if self.transfer is not False:
            wanted |= {"train", "transfer"}
        predicted, unseen = {}, None
        try:
            predicted = self._predict(reference, {n: index for n, index in parts.items() if n in wanted})
        except InputError as error:
            if self.transfer or computed:
                raise
            unseen = str(error)
        temperature = runs.temperature_of(reference, weights)
        heldout = predicted.pop("heldout", None) or _stored(reference, parts["heldout"], temperature)
        # Many epochs times a whole training set: in the precision that the model computed in.
        seen = {part: replace(each, logits=each.logits.astype(np.float32)) for part, each in predicted.items()}
        numbers = tuple(map(str, range(weights.num_classes)))  # what a data set without names has
        return Candidate(
            name_of(reference),
            heldout.logits,
            heldout.labels,
            heldout.ids,
            parts["train"].numpy(),
            (reference,),
            counts=self._counts(reference),
            class_names=None if weights.class_names == numbers else weights.class_names,
            students_see=seen,
            unseen=unseen,
        )

    def _predict(self, reference: TeacherRef, parts: Mapping[str, Tensor]) -> dict[str, Predictions]:
        """What a run's teacher says to some parts of its data."""
        if not parts:
            return {}
        recipe = runs.read_recipe(reference.run)
        data = self._data_of(recipe, reference)
        teacher = runs.load_teacher(reference, model=self.model, trust=self.trust)
        accelerator = make_accelerator(recipe.training)
        dataset = Indexed(data.train, num_classes=data.num_classes, collate_fn=data.collate_fn)
        indices = torch.cat(list(parts.values()))
        logits, labels = predict(teacher.model.to(accelerator.device), dataset, indices, accelerator)
        refuse_not_finite(logits, indices)
        logits = read_logits(logits, teacher.distribution).double()
        seen = read_logits(logits, temperature=teacher.temperature, transform=teacher.transform)
        sizes = [len(index) for index in parts.values()]
        split = zip(parts, seen.split(sizes), labels.split(sizes), parts.values(), strict=True)
        return {name: _predictions(*tensors) for name, *tensors in split}

    def _counts(self, reference: TeacherRef) -> np.ndarray | None:
        """What raters said of the run's data set, if it was read and knows; of one rater, no more than the label."""
        read = self._loaded.get(self._key(runs.read_recipe(reference.run)))
        counts = None if read is None else getattr(read[0].train, "counts", None)
        return None if counts is None or (counts.sum(-1) < 2).any() else to_numpy(counts)

    def _component(self, recipe: Recipe) -> Component | None:
        if self.data_dir is None or recipe.data is None:
            return recipe.data
        return Component(**(recipe.data.model_dump() | {"data_dir": str(self.data_dir)}))

    def _key(self, recipe: Recipe) -> str:
        component = self._component(recipe)
        return "" if component is None else component.model_dump_json()

    def _data_of(self, recipe: Recipe, reference: TeacherRef) -> Data:
        """The data set of a run, once it is sure that it is still the one that the run was trained on."""
        component, key = self._component(recipe), self._key(recipe)
        if key not in self._loaded:
            meant = recipe.model_copy(update={"data": component})
            source = f"the recipe of the run '{reference.run}'"
            found = load_data(meant, self.data, trust=self.trust, source=source)
            self._loaded[key] = found, labels_of(found.train, found.num_classes)
        data, labels = self._loaded[key]
        stored = _stored(
            reference.model_copy(update={"epoch": None, "weights": "last"}),
            runs.parts_of(reference.run, reference.member)["heldout"],
        )
        if stored.ids.max() >= len(labels) or (labels.numpy()[stored.ids] != stored.labels).any():
            raise InputError(
                f"the data set '{recipe.data_name}' gives other labels for the held-out samples than the run "
                f"'{reference.run}' has recorded; give the data that it was trained on",
                argument="data_dir",
            )
        return data


def _stored(reference: TeacherRef, index: Tensor, temperature: float = 1.0) -> Predictions:
    """The held-out predictions that a run has stored, at a temperature."""
    name = f"heldout/{reference.weights}"
    stored = runs.read_predictions(reference.run, name, "heldout/labels")
    logits, labels = stored[name], stored["heldout/labels"]
    if reference.member is not None:
        logits, labels = logits[reference.member], labels[reference.member]
    return _predictions(read_logits(logits.double(), temperature=temperature), labels, index)


def _predictions(logits: Tensor, labels: Tensor, index: Tensor) -> Predictions:
    # Log-probabilities whatever the distribution: raw scores of a squared-error teacher may look like probabilities.
    return Predictions(logits.double().log_softmax(-1).numpy(), labels.numpy(), index.numpy())
