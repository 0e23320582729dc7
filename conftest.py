"""What all tests share."""

import copy
import functools
import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

LONGEST = (
    "benchmarks/foretold/",
    "tests/assess/",
    "tests/integrations/test_transformers_gradient.py",
    "tests/study/",
    "tests/test_commands.py",
    "tests/test_examples.py",
    "tests/training/test_processes.py",
    "tests/training/test_resume.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Before a test is imported: from here on calls of these rooms are held to their annotations."""
    os.environ.pop("COLUMNS", None)  # xdist gives its workers the width of a terminal, which piped output has not
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network, and where there is none, trying takes long
    if hasattr(signal, "SIGHUP"):  # under nohup it is ignored, and would be so in the processes that tests start
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # it only waits for its workers, who wait until it is ready: it need not import torch
    import shapes

    packages = ("losses", "losses.linear", "teaching", "assess", "outputs")
    shapes.check_packages(*(f"preceptor.{package}" for package in packages))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first: at the end, no worker then waits for what another has just begun."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Nets this small run faster, and bit for bit the same, on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_finish() -> None:
    """What has been imported stays: the collector of garbage need not go through it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Against power cuts, of which no test has one: what a process wrote is there without, though it was killed.

    Runs of a second were half a second of waiting. That files are brought to the disk at all, a test makes sure of
    that lets it fail.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _digits_read_once() -> Iterator[None]:
    """The digits, which most runs of the tests read, are unpacked from their file of text only once."""
    import sklearn.datasets

    whole = functools.cache(sklearn.datasets.load_digits)

    def load_digits(*arguments: Any, **options: Any) -> Any:
        return copy.deepcopy(whole(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.datasets, "load_digits", load_digits)
        yield
