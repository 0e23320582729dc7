"""A trained model back from its run."""

from pathlib import Path

from torch import nn

from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.runs.references import teacher_references
from preceptor.runs.weights import Factory, Weights, load_model, model_of, reading_of


def load(
    run: Path | str, *, member: int | None = None, model: Factory | str | None = None, trust: Trust = False
) -> nn.Module:
    """The model of a run as it was trained, in eval mode, on the CPU.

    Args:
        run: a run's folder, for its last weights; or ``RUN:best``, ``RUN:average``, ``RUN:epoch-4``, ``RUN:member-2``
            (docs/teachers.md); or one of the run's ``.safetensors`` files.
        member: which model of a stack.
        model: what makes the model of a run that was trained with one of your own, or its ``package.module:name``.
        trust: import the model that the run names, if it is somebody's own (True, or these names).

    Returns:
        The model, with two attributes more: ``class_names``, a tuple of the C names of its outputs, and
        ``preprocessing``, a mapping that says how raw values became its inputs.

    Raises:
        InputError: no such run, weights, epoch or member; a run of somebody's own model without `model` or `trust`, or
            of another architecture than `model` makes; or a name that stands for more than one model.

    >>> import tempfile, preceptor
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=folder)
    ...     model = load(folder)
    >>> model.training, model.class_names[3], model.preprocessing["divide_by"]
    (False, '3', 16.0)
    """
    path = Path(run)
    if path.suffix == ".safetensors" and path.is_file():
        found, weights = load_model(path, member, model=model, trust=trust)
    else:
        found, weights = _of_run(str(run), member, model, trust)
    found.class_names = weights.class_names  # type: ignore[assignment]
    found.preprocessing = weights.preprocessing  # type: ignore[assignment]
    found._as_teacher = reading_of(weights)  # type: ignore[assignment]
    return found


def _of_run(run: str, member: int | None, model: Factory | str | None, trust: Trust) -> tuple[nn.Module, Weights]:
    references = teacher_references(run)
    if len(references) != 1:
        raise InputError(f"'{run}' stands for {len(references)} models; load them one by one")
    [reference] = references
    if member is not None:
        reference = reference.model_copy(update={"member": member})
    if reference.calibrated:
        raise InputError(f"'{run}' names what is done to a model's output, and no model; leave calibrated out")
    return model_of(reference, model=model, trust=trust)
