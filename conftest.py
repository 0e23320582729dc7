"""What all tests share."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

import shapes


def pytest_configure() -> None:
    """Before a test is imported: from here on calls of these rooms are held to their annotations."""
    packages = ("losses", "losses.linear", "teaching", "assess", "outputs")
    shapes.check_packages(*(f"preceptor.{package}" for package in packages))
    os.environ.pop("COLUMNS", None)  # xdist gives its workers the width of a terminal, which piped output has not
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network, and where there is none, trying takes long
    if hasattr(signal, "SIGHUP"):  # under nohup it is ignored, and would be so in the processes that tests start
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Nets this small run faster, and bit for bit the same, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
