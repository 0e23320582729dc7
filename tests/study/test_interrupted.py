"""The command line is asked to stop, or cannot be heard: exit codes, what is said, what is on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preceptor.notices import Patient
from training.toys import RECIPE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

FOREVER = {**RECIPE, "training": {"epochs": 100_000, "checkpoint_epochs": 100_000, "batch_size": 64, "device": "cpu"}}
STUDY = {
    "name": "long",
    "seeds": [0],
    "stack_teachers": False,
    "workers": 2,
    "teach": FOREVER,
    "distill": RECIPE,
    "baseline": RECIPE,
    "teachers": {"one": {"objective": "cross_entropy"}, "two": {"objective": "mse"}},
    "losses": {"kd": {"loss": "kd"}},
}


def start(*arguments: str, cwd: Path, stderr: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """The command, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "preceptor", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
    )


def wait_for(paths: list[Path], process: "subprocess.Popen[str]") -> None:
    started = time.monotonic()
    while not all(path.is_file() for path in paths):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < 120
        time.sleep(0.05)


def test_a_study_with_workers_saves_them_all(tmp_path: Path) -> None:
    """Ctrl-C, which reaches the workers as well: study/test_grid.py."""
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY))
    with start("study", "study.yaml", "--out", "out", cwd=tmp_path) as process:
        runs = [tmp_path / "out" / "teachers" / name / "seed-0" for name in STUDY["teachers"]]  # type: ignore[attr-defined]
        wait_for([run / "metrics.jsonl" for run in runs], process)
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "stopped and saved; the same command goes on" in errors
    assert "Traceback" not in errors
    assert [len(list((run / "checkpoints").iterdir())) for run in runs] == [1, 1]


def test_stopped_before_training_nothing_is_said_to_be_saved(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n\ndef data():\n    open('asked', 'w').close()\n    time.sleep(100)\n"
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps({**RECIPE, "data": "slow:data"}))
    with start("teach", "recipe.yaml", "--out", "out", cwd=tmp_path) as process:
        wait_for([tmp_path / "asked"], process)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.startswith("stopped; start it again")) == (129, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_training_goes_on_unheard(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start(
            "teach", "teach-digits", "training.epochs=1", "--out", "out", cwd=tmp_path, stderr=full.fileno()
        )
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert (tmp_path / "out" / "result.json").is_file()


def test_a_stream_that_breaks_is_silent_from_then_on(tmp_path: Path) -> None:
    file = open(tmp_path / "closed", "w")  # noqa: SIM115
    file.close()
    stream = Patient(file)
    assert (stream.write("lost"), stream.write("too")) == (4, 3)
    stream.flush()
    assert isinstance(stream.error, ValueError)
    assert stream.name == str(tmp_path / "closed")
