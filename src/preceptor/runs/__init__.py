"""The run folder: a documented, versioned format (docs/run-folder.md) that is checked when it is read."""

from preceptor.runs.choice import read_choice, write_choice
from preceptor.runs.circumstances import circumstances
from preceptor.runs.folder import (
    Identity,
    epochs_of,
    give_up,
    make_run,
    open_run,
    read_members,
    read_objects,
    read_recipe,
    read_result,
    refuse_unlike_parent,
    write_result,
)
from preceptor.runs.integrity import SCHEMA
from preceptor.runs.splits import heldout_labels, parts_of, read_predictions, read_splits, write_splits
from preceptor.runs.token_scores import TokenScores, has_token_scores, read_token_scores, write_token_scores
from preceptor.runs.weights import (
    Factory,
    Weights,
    kept_epochs,
    load_model,
    load_teacher,
    load_weights,
    read_weights,
    save_weights,
    stack_of,
    teacher_weights,
    temperature_of,
)

__all__ = [
    "SCHEMA",
    "Factory",
    "Identity",
    "TokenScores",
    "Weights",
    "circumstances",
    "epochs_of",
    "give_up",
    "has_token_scores",
    "heldout_labels",
    "kept_epochs",
    "load_model",
    "load_teacher",
    "load_weights",
    "make_run",
    "open_run",
    "parts_of",
    "read_choice",
    "read_members",
    "read_objects",
    "read_predictions",
    "read_recipe",
    "read_result",
    "read_splits",
    "read_token_scores",
    "read_weights",
    "refuse_unlike_parent",
    "save_weights",
    "stack_of",
    "teacher_weights",
    "temperature_of",
    "write_choice",
    "write_result",
    "write_splits",
    "write_token_scores",
]
