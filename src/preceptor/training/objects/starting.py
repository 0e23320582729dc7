"""The weights of a finished run that a new run begins with."""

from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.recipe import Recipe, TeacherRef
from preceptor.runs.contents import weights_digest
from preceptor.runs.references import kind_of, name_of, teacher_references
from preceptor.tasks.stack import member_state
from preceptor.training.checks.leaks import same_samples, scored_and_seen
from preceptor.training.checks.token_leaks import changed, learned_of
from preceptor.training.data.samples import Samples


def start_of(recipe: Recipe) -> TeacherRef | None:
    """The run whose weights a recipe begins with, if it names one.

    Raises:
        InputError: it is no run of one model.
    """
    if recipe.start is None:
        return None
    found = teacher_references(recipe.start)
    if len(found) != 1 or kind_of(found[0].run) != "run" or found[0].calibrated:
        raise InputError(f"start is '{recipe.start}', which is not the weights of one model; give RUN or RUN:best")
    return found[0]


def start_digest(recipe: Recipe) -> dict[str, str]:
    """The SHA-256 of the file that holds these weights, by their name."""
    reference = start_of(recipe)
    return {} if reference is None else {name_of(reference): weights_digest(reference)}


def started_(model: nn.Module, recipe: Recipe, data: Data) -> None:
    """Give a new model the weights that its recipe begins with, if it names any.

    Raises:
        InputError: they are of another architecture, or of other classes.
    """
    reference = start_of(recipe)
    if reference is None:
        return
    weights, source = runs.teacher_weights(reference)
    if set(weights.class_names) == set(data.class_names) and weights.class_names != tuple(data.class_names):
        raise InputError(
            f"start is '{recipe.start}', whose classes are those of the data in another order; put the classes of the "
            "data set into its order"
        )
    if weights.preprocessing != data.preprocessing:
        note(f"the weights of '{recipe.start}' were trained on inputs that were prepared otherwise than these")
    tensors = weights.tensors if reference.member is None else member_state(weights.tensors, reference.member)
    runs.load_weights(model, tensors, source)


def refuse_started_on(recipe: Recipe, samples: Samples) -> None:
    """Refuse weights that were trained on samples which the new run is scored on, where both have the same data; of
    language models, on documents, whatever the data are called.

    Raises:
        InputError: naming the first such sample or document.
    """
    reference = start_of(recipe)
    if reference is None:
        return
    trained = runs.parts_of(reference.run, reference.member)["train"]
    alike = runs.read_recipe(reference.run).data == recipe.data
    if samples.are_tokens:
        alike = _same_rows(reference, trained, samples, alike=alike and samples.data.origin is not None)
    for part, seen in scored_and_seen(trained, samples) if alike else ():
        raise InputError(
            f"start is '{recipe.start}', which was trained on {len(seen)} of the {part} samples (the first: "
            f"{int(seen[0])}); give the split and the seed of that run"
        )


def _same_rows(reference: TeacherRef, trained: Tensor, samples: Samples, *, alike: bool) -> bool:
    """Whether the rows of tokens that weights were trained on are those of the same numbers here.

    Args:
        alike: both recipes name the same data.

    Raises:
        InputError: they are others, of documents that this run is scored on.
    """
    if alike:
        return not changed(reference.run, samples.data, role="start")
    found = learned_of(reference.run, trained, samples, role="start")
    if found is not None:
        raise InputError(
            f"start is '{name_of(reference)}', which was trained on {found.count} of the {found.total} {found.part} "
            f"documents (the first: document {found.first}); give the data options of that run"
        )
    return same_samples(reference, samples)
