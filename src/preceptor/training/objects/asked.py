"""What is asked of a run beside its data, model and teacher, checked against each other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from preceptor import runs
from preceptor.data.dataset import require_index
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, Recipe
from preceptor.runs import Identity
from preceptor.tasks.building import Plan
from preceptor.tasks.criterion import Criterion
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.samples import Samples
from preceptor.training.data.streams import Streams
from preceptor.training.objects.own import Own


def with_parent(identity: Identity) -> Identity:
    """The same, once it is seen that it may go on from its parent."""
    if identity.recipe.parent is not None:
        runs.refuse_unlike_parent(identity.recipe.parent, identity)
    return identity


def checked(recipe: Recipe, own: Own | None, *, stacked: bool = False) -> Own:
    """What is handed over beside, once it is seen that it fits the recipe, before data are read."""
    if stacked and recipe.training.patience:
        raise InputError(
            "training.patience is for a single model, as those of a stack would stop at different epochs; leave it "
            "out, or train the models one by one"
        )
    return (own or Own()).check(recipe)


def check_of_samples(samples: Samples, sampler: object, *criteria: tuple[str, Criterion]) -> None:
    """Refuse criteria that must know each sample again where that cannot be, and what is for one label a sample.

    Args:
        sampler: of the recipe, if it has one.
        criteria: with what an error calls each, such as ``objective``.

    Raises:
        InputError: naming the criterion or the sampler.
    """
    for role, each in criteria:
        what = f"the {role} '{each.name}'"
        if samples.are_tokens and (each.has("observe") or "index" in each.needs):
            raise InputError(f"{what} remembers what it saw of each sample, and a row of tokens is many; give another")
        if each.has("observe"):
            require_index(samples.data.train, what)
    if sampler is not None and samples.are_tokens:
        raise InputError(
            "a sampler draws samples by their class, and a row of tokens has many; leave out the key 'sampler'"
        )


def counts_of(samples: Sequence[Samples]) -> Tensor | None:
    """Training samples of each class, int64 (C,), or labels of each token; None where the models of a stack learn from
    different numbers.
    """
    classes = samples[0].data.num_classes
    learned = [s.learned_labels for s in samples]
    each = [labels[labels >= 0].bincount(minlength=classes) for labels in learned]
    return each[0] if all(torch.equal(each[0], other) for other in each) else None


def plan_of(recipe: Recipe, cohort: Cohort) -> Plan:
    """What criteria with parts of their own are built by: two samples, and the labels of those that train."""
    samples = cohort.samples[0]
    rows = samples.for_students if isinstance(recipe, DistillRecipe) else samples.parts["train"]
    return Plan(
        example=None if cohort.size else samples.train[rows[:2].tolist()],
        num_samples=len(samples.train),
        num_classes=cohort.data.num_classes,
        labels=samples.learned_labels,
        seed=Streams(recipe.seed, recipe.streams).seed("initialization", -1),  # models have no such generation
        preprocessing=cohort.data.preprocessing,
    )
