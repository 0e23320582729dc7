"""Jobs in processes side by side: their results, their bars, their errors."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from preceptor.errors import InputError
from preceptor.study import executors
from preceptor.study.executors import side_by_side
from preceptor.training.engine.progress import progress_bar


def slow(number: int) -> int:
    """A job that tells its steps."""
    with progress_bar("not drawn by this process", enabled=True) as on_step:
        for step in range(1, 5):
            on_step(step, 4, {})
            time.sleep(0.3)
    return number**2


def refuses(number: int) -> int:
    raise InputError(f"{number} is refused")


def test_every_job_runs_and_shows_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(executors, "bars", lambda: Progress(console=Console(file=drawn, force_terminal=True, width=80)))
    results = dict(side_by_side(slow, {"three": (3,), "four": (4,), "five": (5,)}, 2, progress=True))
    assert results == {"three": 9, "four": 16, "five": 25}
    assert all(name in drawn.getvalue() for name in results)


def writes(folder: Path, name: str) -> None:
    if name == "first":
        raise InputError("the first is refused")
    with progress_bar("not drawn by this process", enabled=True) as on_step:
        for step in range(1, 3):
            on_step(step, 2, {})
            time.sleep(0.25)
    (folder / name).touch()


def test_after_an_error_no_other_job_begins(tmp_path: Path) -> None:
    jobs = {name: (tmp_path, name) for name in ("first", *"abcdefgh")}
    with pytest.raises(InputError, match="the first is refused"):
        dict(side_by_side(writes, jobs, 2))
    done = len(list(tmp_path.iterdir()))
    time.sleep(1.5)
    assert done == len(list(tmp_path.iterdir()))  # what was at work has been waited for
    assert done < 5


def test_a_reader_who_stops_ends_the_jobs_and_nothing_is_drawn_unasked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = side_by_side(writes, {name: (tmp_path, name) for name in "abcdefgh"}, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert 1 <= len(list(tmp_path.iterdir())) < 8
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_handed_over_is_said() -> None:
    with pytest.raises(InputError, match=r"cannot be handed to another process .*; give workers=1"):
        dict(side_by_side(slow, {"a": (lambda: 3,)}, 2))


def test_an_error_of_this_process_comes_as_it_is() -> None:
    """One of another process does so where no other job begins after it."""
    with pytest.raises(InputError, match="7 is refused"):
        list(side_by_side(refuses, {"seven": (7,)}, 1))


def test_one_worker_is_this_process() -> None:
    made = []
    assert list(side_by_side(made.append, {"a": (1,), "b": (2,)}, 1)) == [("a", None), ("b", None)]
    assert made == [1, 2]
