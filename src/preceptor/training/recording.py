"""Recording a teacher: what a student's run would ask it, asked once and written down."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import __version__, runs
from preceptor.data.dataset import Indexed
from preceptor.data.readings import first_changed
from preceptor.errors import InputError, did_you_mean
from preceptor.inputs import batch_to
from preceptor.names import Trust
from preceptor.notices import note, notes_kept
from preceptor.recipe import DistillRecipe, TeacherRef
from preceptor.recipe.keywords import RecipeLike, make_recipe
from preceptor.recipe.text import find_recipe, read_yaml
from preceptor.records import Dense, Hidden, Manifest, Record, RecordWriter, Sampled, TopK
from preceptor.records import Identity as RecordIdentity
from preceptor.records.forms import Form
from preceptor.records.ids import Ids
from preceptor.records.reader import HELDOUT
from preceptor.records.samples import write_samples
from preceptor.runs import Factory
from preceptor.runs.contents import weights_digest
from preceptor.runs.identity import fingerprint
from preceptor.runs.references import kind_of, name_of, teacher_references
from preceptor.tasks.teacher import Lookup, TeacherFn, TeacherLike, leaves, of_all_classes
from preceptor.training.checks import probe
from preceptor.training.checks.callers import given_back
from preceptor.training.checks.leaks import check_class_names, refuse_leak
from preceptor.training.data.batches import Batches, Replay
from preceptor.training.data.samples import Samples, cut, load_data
from preceptor.training.data.streams import Streams
from preceptor.training.engine.device import Accelerator, make_accelerator
from preceptor.training.engine.progress import OnStep, progress_bar
from preceptor.training.objects.criteria import refuse_mixing
from preceptor.training.teachers.given import as_given, fitted, load_teachers
from preceptor.training.teachers.preprocessing import refuse_unconverted
from preceptor.training.teachers.recorded_features import DTYPES, Features
from preceptor.training.teachers.recorded_tokens import TokenRows
from preceptor.training.teachers.replay import batches_of, described, record_of

FORMS: dict[str, type[Form]] = {"dense": Dense, "top_k": TopK, "sampled": Sampled, "hidden": Hidden}
_OF_ALL = ("dense", "hidden")
_BATCH, _SHARD_BYTES = 256, 2**26


def record(
    teacher: TeacherLike | Sequence[TeacherRef | Path | str] | TeacherRef | Path | str,
    folder: Path | str,
    *,
    data: Any = None,
    recipe: RecipeLike | None = None,
    views: int = 1,
    form: Form | str = "dense",
    dtype: str | None = None,
    k: int | None = None,
    features: str | Sequence[str] = (),
    features_dtype: str = "float16",
    heldout: bool = True,
    teacher_model: Factory | str | None = None,
    trust: Trust = False,
    progress: bool = False,
    **keywords: Any,
) -> Record:
    """Write down what a student's run would ask its teacher in `views` epochs: of each training sample, augmented and
    mixed as the recipe says.

    A recording that was stopped, or killed, goes on where it was when the same is called again. The log-probabilities
    are stored at T = 1, so that a student's loss may take any temperature (of a form that is not dense: those of its
    grid). Labels of a ``transfer`` part are not. Of rows of tokens (`preceptor.data.tokens`) every position that counts
    has a row of its own in the record.

    Args:
        teacher: as of `preceptor.distill`, but none that is stored already.
        folder: of the record, new or begun.
        data: as of `preceptor.distill`.
        recipe: whose data, split, seed, augmentation and mixing are asked for (of a teacher or of a student); by
            default the recipe of the teacher's own run.
        views: how often each sample is recorded, each time with draws of its own; a student's epochs are these in turn.
        form: ``dense`` (all classes), ``top_k`` (k classes and the mass of all others), ``sampled`` (k classes, so
            drawn that losses are unbiased), ``hidden`` (a language model's last hidden states, and its head once), or
            one of `preceptor.records` with its options.
        dtype: of the stored log-probabilities: float32, float16, bfloat16, or of top_k uint8; by default the form's.
        k: classes a sample, of ``top_k`` and ``sampled``.
        features: what is stored of the model's inner modules, too, of training samples: taps, patterns or words, as a
            loss names them (``penultimate``, ``stages``); of a word that stands for several as ``stages.0`` and so on.
        features_dtype: of these numbers: float16, bfloat16 or float32.
        heldout: record the held-out samples, too, as they are and with all classes (tokens in the same form), so that
            the teacher can be scored from its record.
        teacher_model, trust, progress: as of `preceptor.distill`.
        keywords: laid over the recipe.

    Returns:
        The record.

    Raises:
        InputError: as `preceptor.distill`; a record of something else in the folder; a change of the samples that
            cannot be replayed, by name.

    >>> import tempfile
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> len(record(net, tempfile.mkdtemp(), data="digits", split={"train": 100, "test": "rest"}, device="cpu"))
    100
    """
    named = _references(teacher)
    if any(kind_of(each.run) in ("file", "record") for each in named):
        raise InputError("the teacher's outputs are stored already; record a live teacher")
    with notes_kept(), given_back(None if named else teacher):
        made = _recipe(recipe, named, keywords | ({"data": data} if isinstance(data, str | Mapping) else {}))
        given = None if isinstance(data, str | Mapping) else data
        samples = cut(made, load_data(made, given, trust=True), made.seed)
        accelerator = make_accelerator(made.training)
        if accelerator.num_processes > 1:
            raise InputError("a teacher is recorded by one process; start it without accelerate launch")
        asked = _teacher(made, samples, teacher, named, teacher_model, trust, accelerator)
        two = batch_to(samples.train[samples.for_students[:2].tolist()], accelerator.device)
        names = [features] if isinstance(features, str) else features
        stored = _form(form, dtype, k)
        tokens = TokenRows(samples, stored, asked, tuple(names), two) if samples.are_tokens else None
        if tokens is None and isinstance(stored, Hidden):
            raise InputError("the form 'hidden' is for rows of tokens; record the form 'dense'", argument="form")
        seen = Features(asked, names, features_dtype, two)
        work = _Work(made, samples, asked, accelerator, stored, views, _digests(asked, named), seen, tokens)
        place = Path(folder)
        with progress_bar(f"recording {place.name}", enabled=progress) as on_step:
            work.write(place, on_step, heldout=heldout)
    return Record(place)


def _references(teacher: Any) -> list[TeacherRef]:
    several = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    if not several or not all(isinstance(each, str | Path | TeacherRef) for each in several):
        return []
    found = [[each] if isinstance(each, TeacherRef) else teacher_references(str(each)) for each in several]
    return [reference for references in found for reference in references]


def _recipe(recipe: RecipeLike | None, named: Sequence[TeacherRef], keywords: Mapping[str, Any]) -> DistillRecipe:
    """A recipe of whichever verb, or of the teacher's run, as that of a student of these teachers."""
    raw: dict[str, Any] = {}
    if recipe is None and named and kind_of(named[0].run) == "run":
        raw = runs.read_recipe(named[0].run).model_dump()
    elif isinstance(recipe, str | Path):
        raw = read_yaml(find_recipe(str(recipe)))
    elif recipe is not None:
        raw = dict(recipe) if isinstance(recipe, Mapping) else recipe.model_dump()
    left_out = {"verb", "teacher", "objective", "distribution", "calibrate"}
    ours = {key: value for key, value in raw.items() if key not in left_out}
    references = {"teacher": [each.model_dump() for each in named]} if named else {}
    return make_recipe(DistillRecipe, ours, {**keywords, **references})


def _teacher(
    recipe: DistillRecipe,
    samples: Samples,
    teacher: Any,
    named: Sequence[TeacherRef],
    model: Factory | str | None,
    trust: Trust,
    accelerator: Accelerator,
) -> TeacherFn:
    """The teacher as a student would be given it, held to all that `distill` holds it to."""
    bare = load_teachers(recipe, model, trust) if named else as_given(teacher)
    if any(isinstance(leaf, Lookup) or record_of(leaf) is not None for leaf in leaves(bare)):
        raise InputError("the teacher's outputs are stored already; record a live teacher")
    check_class_names(bare, samples.data.class_names)
    if recipe.mixing:
        refuse_mixing(None, bare)
    if named:
        refuse_leak(recipe, samples, named=samples.data.origin is not None)
    asked = fitted(recipe, bare, samples, accelerator.device)
    probe.check_teacher(asked, samples, accelerator.device)
    two = samples.train[samples.for_students[:2].tolist()]
    refuse_unconverted(asked, samples.data, batch_to(two, accelerator.device))
    return asked


def _form(form: Form | str, dtype: str | None, k: int | None) -> Form:
    if not isinstance(form, str):
        return form
    if form not in FORMS:
        raise InputError(f"the form is '{form}'; {did_you_mean(form, FORMS)}", argument="form")
    if form not in _OF_ALL and k is None:
        raise InputError(f"the form '{form}' stores k classes a sample; give k", argument="k")
    if form in _OF_ALL and k is not None:
        raise InputError(f"k is {k}, and the form '{form}' stores all classes; leave k out", argument="k")
    dtypes = ("float32", "float16", "bfloat16", *(("uint8",) if form == "top_k" else ()))
    if dtype not in (None, *dtypes):
        known = did_you_mean(str(dtype), dtypes)
        raise InputError(f"the dtype is '{dtype}'; {known}", argument="dtype")
    options: dict[str, Any] = {name: value for name, value in (("dtype", dtype), ("k", k)) if value is not None}
    return FORMS[form](**options)


def _digests(teacher: TeacherFn, named: Sequence[TeacherRef]) -> dict[str, str]:
    """Of what answers: the weights of runs, by their folders' names and shares, or an object."""
    if not named:
        return {"object": fingerprint(teacher)}
    called = [Path(name_of(each)).name + (f" x {each.weight:g}" if each.weight != 1 else "") for each in named]
    one = len(named) == 1
    return {
        name if one else f"{number}: {name}": weights_digest(each)
        for number, (name, each) in enumerate(zip(called, named, strict=True))
    }


class _Work:
    """One recording: its record, its replayed batches, and the teacher to be asked."""

    def __init__(
        self,
        recipe: DistillRecipe,
        samples: Samples,
        teacher: TeacherFn,
        accelerator: Accelerator,
        form: Form,
        views: int,
        digests: Mapping[str, str],
        features: Features,
        tokens: TokenRows | None,
    ) -> None:
        if views < 1:
            raise InputError(f"views is {views}; give 1 or more", argument="views")
        drawn = tokens is not None and isinstance(form, Sampled)
        alike = views > 1 and recipe.augmentation is None and recipe.mixing is None and not drawn
        if alike and first_changed(samples.train, samples.for_students, samples.labels, epoch=1) is None:
            note(f"{views} views are recorded, and nothing that is done to the samples tells them apart")
        self.recipe, self.samples, self.teacher, self.accelerator = recipe, samples, teacher, accelerator
        self.features, self.tokens = features, tokens
        self.size: int = _BATCH if tokens is None else tokens.batch
        streams = Streams(samples.seed, recipe.streams)
        indices = samples.for_students.sort().values
        replay, workers = Replay(streams, views, indices), recipe.training.num_workers
        self.batches: Batches = batches_of(recipe, samples, replay, accelerator.device, num_workers=workers)
        found = described(recipe, samples, replay)
        self.manifest = Manifest(
            form=form,
            num_samples=len(self._ids(indices)),
            views=views,
            seed=samples.seed,
            streams={name: streams.seeds[name] for name in ("split", "augmentation")},
            features=tuple(features.taps),
            identity=RecordIdentity(
                teacher={
                    **digests,
                    **({"transform": recipe.transform.model_dump_json()} if recipe.transform else {}),
                },
                data=found.pop("data"),
                dtype=str(accelerator.mixed_precision).replace("no", "fp32"),
                versions={"preceptor": __version__, "torch": str(torch.__version__)},
                features=features.described,
            ),
            **found,
        )

    def write(self, folder: Path, on_step: OnStep, *, heldout: bool) -> None:
        """Write what is not yet there."""
        indices, views = self.manifest.num_samples or 0, self.manifest.views
        parts = self.samples.parts
        others = parts["heldout"] if heldout else parts["heldout"][:0]
        total, done = indices * views + len(self._ids(others)), 0
        with RecordWriter(folder, self.manifest, shard_size=self._shard_size) as writer:
            write_samples(folder, parts, self._trained_on())
            if self.tokens is not None:
                self.tokens.write_beside(folder, self.batches.indices, head=True)
            for view in range(views):
                chunks = self._left(self.batches.indices, writer.done(view))
                done += indices - sum(len(self._ids(chunk)) for chunk in chunks)
                for batch in self.batches.made(chunks, view):
                    self._write(writer, batch, view)
                    done += len(self._ids(batch["index"].cpu()))
                    on_step(done, total, {})
        if len(others):
            self._write_heldout(folder / HELDOUT, others, lambda more: on_step(done + more, total, {}))

    def _write_heldout(self, folder: Path, indices: Tensor, on_step: Callable[[int], None]) -> None:
        """The held-out samples as they are, in a record of their own: of all classes, as comparing teachers needs.

        Those of tokens are compared by the numbers beside them, and all of a vocabulary would be the larger record.
        """
        same = self.tokens is not None or isinstance(self.manifest.form, Dense)
        form = self.manifest.form if same else Dense("float16")
        identity = self.manifest.identity.model_copy(update={"features": {}})
        update = {
            "form": form,
            "num_samples": len(self._ids(indices)),
            "views": 1,
            "augmentation": None,
            "mixing": None,
        }
        update |= {"features": (), "identity": identity}
        data = self.samples.data
        as_they_are = Indexed(data.train, num_classes=data.num_classes, collate_fn=data.collate_fn)
        manifest = self.manifest.model_copy(update=update)
        with RecordWriter(folder, manifest, shard_size=self._shard_size) as writer:
            if self.tokens is not None:
                self.tokens.write_beside(folder, indices)
            chunks, done = self._left(indices, writer.done(0)), 0
            for chunk in chunks:
                self._write(writer, batch_to(as_they_are[chunk], self.accelerator.device), 0)
                done += len(self._ids(chunk))
                on_step(done)

    @property
    def _shard_size(self) -> int:
        """Rows of a shard: whole batches, of some 64 MB where all classes, and features, are stored."""
        if self.tokens is not None:
            return self.tokens.shard_size
        row = 4 * self.manifest.num_classes + DTYPES[self.features.dtype].itemsize * self.features.numbers
        return _BATCH * max(1, min(64, _SHARD_BYTES // (row * _BATCH)))

    def _left(self, indices: Tensor, done: Ids) -> list[Tensor]:
        """The batches that are not wholly on disk: those of an uninterrupted recording, so that all is the same."""
        return [chunk for chunk in indices.split(self.size) if not done.has(self._ids(chunk).numpy()).all()]

    def _ids(self, indices: Tensor) -> Tensor:
        """The rows of the record that samples become."""
        return indices if self.tokens is None else self.tokens.ids(indices)

    @torch.no_grad()
    def _write(self, writer: RecordWriter, batch: Mapping[str, Tensor], view: int) -> None:
        if self.tokens is not None:
            with self.accelerator.autocast():
                self.tokens.write(writer, batch, view)
            return
        with self.accelerator.autocast():
            wanted = bool(writer.manifest.features)
            found, features = self.features.of(self.teacher, batch) if wanted else (self.teacher(batch), {})
            said = of_all_classes(found, "a record")
        labelled = self.samples.labelled
        index, labels = batch["index"].cpu(), batch["label"].cpu()
        if labelled is not None:
            transfer = self.samples.parts["transfer"]
            labels = torch.where(torch.isin(index, transfer), -1, labels)
        writer.write(index, view, log_probs_of(said), labels=labels, features=features)

    def _trained_on(self) -> Tensor | None:
        """The samples of these data that the teachers were trained on; None where they do not say it, as objects."""
        if not self.recipe.teacher or any(kind_of(each.run) != "run" for each in self.recipe.teacher):
            return None
        found = [runs.parts_of(each.run, each.member)["train"] for each in self.recipe.teacher]
        return torch.cat(found).unique()


def log_probs_of(said: Tensor) -> Tensor:
    """A teacher's logits or log-probabilities (B, C) as float32 log-probabilities at T = 1, on the CPU."""
    return said.float().log_softmax(-1).cpu()
