"""What a prediction study is: candidate teachers, fixed before any student runs. Does not import torch."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from preceptor.errors import did_you_mean
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.schema import Strict
from preceptor.study.recipe import LossEntry, TeacherEntry, check_seeds, check_trained, same_samples, taught


def _members(value: object) -> object:
    return [value] if isinstance(value, str) else value


class CandidateEntry(Strict):
    """A teacher that a practitioner would try: one checkpoint or the mean of several, and what is done to its output.

    ``of`` names checkpoints as ``teacher@epoch``. ``temperature`` is fixed; ``family`` is fitted on the held-out labels
    (one of `preceptor.assess.FAMILIES`), whatever it is worth.
    """

    of: Annotated[tuple[str, ...], BeforeValidator(_members), Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0)] | None = None
    family: str | None = None

    @model_validator(mode="after")
    def _one_transform(self) -> "CandidateEntry":
        if self.temperature is not None and self.family is not None:
            raise ValueError("a candidate has either a fixed 'temperature' or a fitted 'family'; leave one out")
        for member in self.of:
            if self.of.count(member) > 1:
                raise ValueError(f"a candidate's 'of' has '{member}' more than once; all its members weigh alike")
        return self


class PredictionStudy(Strict):
    """Candidate teachers x losses x seeds, beside the student of the labels, of the truth, and of ``auto``'s choice.

    Every seed draws its own split, its own teachers and its own students; ``teach.training.checkpoint_epochs`` lists
    the epochs that candidates may be made of, and that ``auto`` chooses from.
    """

    name: str
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    teach: TeachRecipe
    distill: DistillRecipe
    teachers: Annotated[dict[str, TeacherEntry], Field(min_length=1)]
    candidates: Annotated[dict[str, CandidateEntry], Field(min_length=2)]
    losses: Annotated[dict[str, LossEntry], Field(min_length=1)]
    students_per_stack: Annotated[int, Field(ge=1)] | None = None  # at most; None trains all of a loss as one stack
    workers: Annotated[int, Field(ge=1)] = 1  # processes that train teachers, and students of a loss, side by side

    @model_validator(mode="after")
    def _can_be_run(self) -> "PredictionStudy":
        check_seeds(self.seeds)
        if "hard" in self.losses:
            raise ValueError(
                "losses has 'hard', which is what the students of the labels are called; name it otherwise"
            )
        check_trained("teachers", self.teachers, "candidates are made of epochs, as they are")
        for name in self.teachers:
            recipe = self.teach_recipe(name)
            if not isinstance(recipe.training.checkpoint_epochs, tuple) or recipe.training.keep != "all":
                raise ValueError(
                    f"the training of teachers.{name} has no list of checkpoint_epochs, or not keep: all; candidates "
                    "are made of the epochs that it keeps"
                )
            same_samples(**{"teach": self.teach, f"teachers.{name}.settings": recipe})
        for name, candidate in self.candidates.items():
            for member in candidate.of:
                if member not in self.members:
                    raise ValueError(f"candidates.{name}.of has '{member}'; {did_you_mean(member, self.members)}")
        same_samples(teach=self.teach, distill=self.distill)
        return self

    @property
    def members(self) -> list[str]:
        """Every checkpoint of every teacher, ``teacher@epoch``."""
        return [
            f"{name}@{epoch}"
            for name in self.teachers
            for epoch in sorted(set(self.teach_recipe(name).training.checkpoint_epochs))  # type: ignore[arg-type]
        ]

    def teach_recipe(self, name: str) -> TeachRecipe:
        """The recipe of one teacher."""
        return taught(self.teach, self.teachers[name])
