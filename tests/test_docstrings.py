"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import preceptor

ROOT = Path(preceptor.__file__).parent
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "preceptor.")
    if not module.ispkg
    and ">>> " in ROOT.parent.joinpath(*module.name.split(".")).with_suffix(".py").read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert not result.failed


def test_there_are_examples() -> None:
    assert {"preceptor.losses.kd", "preceptor.assess.optimum", "preceptor.outputs.distribution"} <= set(MODULES)
