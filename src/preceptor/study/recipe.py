"""What a study is: teachers x losses x seeds. Does not import torch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from preceptor.errors import did_you_mean
from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe, parse
from preceptor.recipe.published import published_of
from preceptor.schema import NUMBER, Component, Count, Named, Strict, Whole, parts_of


class TeacherEntry(Strict):
    """One teacher of a study: an objective with its settings, or other weights of an entry before it (``of``)."""

    objective: Named | None = None
    """What this teacher minimises."""
    of: str | None = None
    """Or: the entry whose other weights this teacher is."""
    weights: Literal["last", "best", "average"] = "last"
    """Which weights."""
    epoch: Count | None = None
    """The weights after so many epochs instead, which a run with ``training.keep: all`` has kept."""
    calibrated: bool = False
    """At the temperature that its run has fitted."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Keys of ``teach`` that differ for this entry."""

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherEntry":
        if (self.objective is None) == (self.of is None):
            raise ValueError("a teacher of a study needs either 'objective' or 'of', the name of another teacher")
        if self.epoch is not None and (self.weights != "last" or self.calibrated):
            raise ValueError(
                f"a teacher of a study has epoch {self.epoch} and weights '{self.weights}', calibrated "
                f"{self.calibrated}, which are of other moments; leave these out, or epoch"
            )
        return self


class LossEntry(Strict):
    """One loss of a study, with the mix of hard labels that it is used with."""

    loss: Named
    """What the students minimise."""
    ce_weight: Annotated[float, Field(ge=0), NUMBER] = 0.1
    """Of the cross-entropy to the labels."""
    distill_weight: Annotated[float, Field(ge=0), NUMBER] = 0.9
    """Of the loss to the teacher."""

    @model_validator(mode="after")
    def _of_outputs(self) -> "LossEntry":
        refuse_looking(self.loss)
        return self


class Study(Strict):
    """A grid of runs: every teacher under every seed, every student of it under every loss.

    ``teach`` and ``distill`` are the recipes that the entries vary; each seed draws its own split, its own teacher of
    every entry, and one initialisation and data order that its students share. ``baseline`` is the student that learns
    from the labels alone.
    """

    name: str
    """Names the default folder."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    """For each its own split, teachers and students."""
    teach: TeachRecipe
    """The teachers' recipe."""
    distill: DistillRecipe
    """The students' recipe."""
    baseline: TeachRecipe
    """The recipe of the student on labels alone."""
    teachers: Annotated[dict[str, TeacherEntry], Field(min_length=1)]
    """The rows of the table, by name."""
    losses: Annotated[dict[str, LossEntry], Field(min_length=1)]
    """The columns, by name."""
    stack_teachers: bool = True
    """Train the seeds of an entry as one stack."""
    threads: Count | None = None
    """CPU threads; stacks of very small networks are fastest on one."""
    workers: Count = 1
    """Processes that train teachers side by side, where they are not stacked."""
    students_per_stack: Literal["all", "seed"] = "all"
    """Which students are trained as one stack: all, or those of a seed."""

    @model_validator(mode="after")
    def _known_sources(self) -> "Study":
        trained = {name for name, entry in self.teachers.items() if entry.objective}
        check_distinct("teachers", self.teachers)
        for name, entry in self.teachers.items():
            if entry.of and entry.of not in trained:
                raise ValueError(f"teachers.{name}.of is '{entry.of}'; {did_you_mean(entry.of, trained)}")
            if entry.epoch and entry.epoch not in self.teach_recipe(entry.of or name).training.kept_epochs:
                raise ValueError(
                    f"teachers.{name}.epoch is {entry.epoch}, which its training does not keep; set its training.keep "
                    "to all, and list the epoch in training.checkpoint_epochs"
                )
            if entry.weights == "average" and not self.teach_recipe(entry.of or name).average:
                raise ValueError(
                    f"teachers.{name}.weights is 'average', but its training averages none; add average, e.g. "
                    "average: {kind: ema}"
                )
            if entry.calibrated and not self.teach_recipe(entry.of or name).calibrate:
                raise ValueError(f"teachers.{name} is calibrated, but its training has no calibrate: true; add it")
        check_seeds(self.seeds)
        same_samples(teach=self.teach, distill=self.distill, baseline=self.baseline)
        for name in self.trained:
            same_samples(**{"teach": self.teach, f"teachers.{name}.settings": self.teach_recipe(name)})
        return self

    def teach_recipe(self, name: str) -> TeachRecipe:
        """The recipe of one trained teacher: the study's, with the entry's objective and settings."""
        return taught(self.teach, self.teachers[name])

    @property
    def trained(self) -> list[str]:
        """The teachers that are trained, in order; the others are other weights of theirs."""
        return [name for name, entry in self.teachers.items() if entry.objective]


class Generations(Strict):
    """Chains of students: generation 0 is taught under each objective, then each student teaches the next.

    Every generation has one architecture, ``teach.model``, unless ``models`` names others: teacher assistants (arXiv
    1902.03393), from the teacher's size down to the student's. Later generations draw another initialisation; split and
    data order are the seed's.
    """

    name: str = "generations"
    """Names the default folder."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    """For each a chain of every start."""
    generations: Count = 5
    """The length of a chain, generation 0 included."""
    teach: TeachRecipe
    """The recipe of generation 0."""
    distill: DistillRecipe
    """The recipe of the students."""
    models: tuple[Named, ...] = ()
    """The model of each generation after the first, in place of ``distill.model``; none where all share one."""
    starts: Annotated[dict[str, TeacherEntry], Field(min_length=1)]
    """The chains, by name: what generation 0 minimises."""
    top_k: Count = 5
    """The classes whose mass is told."""

    @model_validator(mode="after")
    def _trained_starts(self) -> "Generations":
        check_seeds(self.seeds)
        refuse_looking(self.distill.named_loss)
        check_distinct("starts", self.starts)
        check_trained("starts", self.starts, "chains pass on last weights as they are")
        same_samples(teach=self.teach, distill=self.distill)
        for name in self.starts:
            same_samples(**{"teach": self.teach, f"starts.{name}.settings": self.teach_recipe(name)})
        if not self.models and self.distill.model != self.teach.model:
            raise ValueError(
                "distill.model differs from teach.model; all generations share one architecture, or models names that "
                "of each after the first"
            )
        if self.models and len(self.models) != self.generations - 1:
            raise ValueError(
                f"models names {len(self.models)}, one for each generation after the first; set generations to "
                f"{len(self.models) + 1}"
            )
        return self

    def teach_recipe(self, name: str) -> TeachRecipe:
        """The recipe of generation 0 of one chain."""
        return taught(self.teach, self.starts[name])

    def student_recipe(self, generation: int) -> DistillRecipe:
        """The recipe of a later generation."""
        model = self.models[generation - 1] if self.models else self.distill.model
        return self.distill.model_copy(update={"generation": generation, "model": model})


def refuse_looking(loss: Component) -> None:
    """Refuse a loss that looks into the models, which students cannot share that are trained as one stack."""
    found = next((part.name for part, _ in parts_of(loss) if published_of(part.name) is not None), None)
    if found is not None:
        raise ValueError(
            f"the loss '{found}' looks into the models, and the students of a study are trained as one stack, which "
            f"has no single one; leave it out, and train its students one by one: preceptor distill RECIPE "
            f"loss={found} --teacher RUN"
        )


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse a seed that would count twice."""
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds repeat: {list(seeds)}; give each once")


def check_distinct(what: str, entries: Mapping[str, TeacherEntry]) -> None:
    """Refuse an entry that is another one under a second name."""
    first: dict[str, str] = {}
    for name, entry in entries.items():
        source = entries.get(entry.of or name, entry)
        meant = entry.model_copy(update={"of": None, "objective": source.objective, "settings": source.settings})
        known = first.setdefault(meant.model_dump_json(), name)
        if known != name:
            raise ValueError(f"{what}.{name} is {what}.{known} under another name; leave one of the two out")


def check_trained(what: str, entries: Mapping[str, TeacherEntry], why: str) -> None:
    """Refuse entries that are not trained under an objective of their own, or ask for other than the last weights."""
    for name, entry in entries.items():
        if entry.objective is None:
            raise ValueError(f"{what}.{name} has no objective; give the one that it is trained under")
        if entry.weights != "last" or entry.calibrated or entry.epoch is not None:
            raise ValueError(
                f"{what}.{name} asks for weights '{entry.weights}', epoch {entry.epoch}, calibrated "
                f"{entry.calibrated}; {why}, so leave them out"
            )


def same_samples(**recipes: Recipe) -> None:
    """Refuse recipes whose splits would differ: a student's test samples could be its teacher's training samples."""
    (first, base), *others = recipes.items()
    for name, recipe in others:
        for key in ("data", "split", "streams"):
            ours, theirs = getattr(base, key), getattr(recipe, key)
            if ours != theirs:
                raise ValueError(f"{name}.{key} differs from {first}.{key}; teachers and students must share one split")


def taught(base: TeachRecipe, entry: TeacherEntry) -> TeachRecipe:
    """`base` with an entry's objective and settings."""
    assert isinstance(entry.objective, Component)
    raw = base.model_dump(mode="json") | {"objective": entry.objective.model_dump(mode="json")}
    return parse(TeachRecipe, _merged(raw, entry.settings))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        inner = base.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result
