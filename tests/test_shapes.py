"""Annotations that do not tell the truth are found (`shapes.checked`), and nothing else is."""

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import preceptor.assess
import preceptor.losses
import preceptor.outputs
import preceptor.teaching
import shapes
from shapes import checked


@checked
def mean(
    logits: Float[Tensor, "*batch classes"], weight: float = 1.0, *, mask: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch"]:
    if logits.shape[-1] < 2:
        raise ValueError("at least 2 classes")
    return weight * logits.mean(-1)


@checked
def total(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    return logits.sum(-1, keepdim=True)


def test_what_is_right_passes():
    logits = torch.ones(2, 3, 4)
    assert mean(logits, 2, mask=torch.ones(2, 3, dtype=torch.bool)).shape == (2, 3)
    torch.testing.assert_close(torch.func.vmap(mean)(logits), mean(logits))
    compiled = torch.compile(mean, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits), mean(logits))
    torch.compiler.reset()


def test_a_result_of_another_shape_is_found():
    with pytest.raises(AssertionError, match=r"total: 'return' is torch.float32 \(2, 1\)"):
        total(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((torch.ones(2, 3, dtype=torch.complex64),), {}, "logits"),
        ((np.ones((2, 3)),), {}, "logits"),
        ((torch.ones(2, 3), torch.ones(())), {}, "weight"),
        ((torch.ones(2, 3),), {"mask": torch.ones(3, dtype=torch.bool)}, "mask"),
        ((torch.ones(2, 3),), {"mask": torch.ones(2)}, "mask"),
    ],
)
def test_an_argument_that_is_not_as_annotated_is_found(arguments, options, name):
    with pytest.raises(AssertionError, match=f"mean: '{name}' is"):
        mean(*arguments, **options)


def test_what_is_refused_was_never_said_to_fit():
    with pytest.raises(ValueError, match="at least 2 classes"):
        mean(torch.ones(2, 1), mask="none")


@pytest.mark.parametrize(
    "function",
    [
        preceptor.losses.kd,
        preceptor.losses.dist,
        preceptor.teaching.mse,
        preceptor.teaching.SoTeacher.forward,
        preceptor.outputs.proxy_teacher,
        preceptor.assess.calibration_error,
        preceptor.assess.compare,
    ],
)
def test_the_library_is_held_to_its_annotations(function):
    assert function.__code__.co_filename == shapes.__file__
