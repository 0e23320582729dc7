"""Names that users of earlier versions import are found where they are now, with a note."""

import importlib

import pytest

OLD = [
    ("preceptor.training.run", "read_result"),
    ("preceptor.training.run", "load_model"),
    ("preceptor.training.files", "load_tensors"),
    ("preceptor.training.teacher", "Lookup"),
    ("preceptor.training.stack", "Stack"),
    ("preceptor.training.setup", "new_model"),
    ("preceptor.training.checkpoint", "load"),
    ("preceptor.teaching", "fit_temperature"),
    ("preceptor.teaching", "average_probabilities"),
    ("preceptor.teaching", "clip_distribution"),
    ("preceptor.teaching", "average_weights"),
    ("preceptor.study.assessment", "assess_files"),
]


@pytest.mark.parametrize(("module", "name"), OLD)
def test_an_old_name_is_found(module: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{module}.{name}' is now 'preceptor"):
        found = getattr(importlib.import_module(module), name)
    assert callable(found)


def test_a_name_that_never_was() -> None:
    with pytest.raises(AttributeError, match="fit_temprature"):
        _ = importlib.import_module("preceptor.teaching").fit_temprature
