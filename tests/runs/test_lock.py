"""One process at a time in a run folder: the second is refused, and a death lets the next one in."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor.errors import InputError
from preceptor.runs import files
from preceptor.training import teach
from training.toys import snapshot, stopped_at, teach_recipe

TESTS = Path(__file__).parents[1]

# Makes its first step, says so, and never comes to a second one.
STUCK = """
import sys, time
from pathlib import Path
from preceptor.training import teach
from preceptor.training.loop.loop import Loop
from training.toys import teach_recipe

def stepping(self, batches, step=Loop._step):
    if self.progress.step == 1:
        print("at work", flush=True)
        time.sleep(1000)
    step(self, batches)

Loop._step = stepping
teach(teach_recipe("training.checkpoint_every=1"), Path(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_second_process_in_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    recipe = teach_recipe("training.checkpoint_every=1")
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STUCK, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=r"another process is at work in '.*run'; wait until it has ended"):
            teach(recipe, tmp_path / "run")
        assert sorted(tmp_path.rglob("*")) == before
        process.send_signal(signal.SIGKILL)
    teach(recipe, tmp_path / "run")
    teach(recipe, tmp_path / "whole")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def test_who_holds_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that breaks off lets go; a complete run is read though somebody holds its folder."""
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    recipe = teach_recipe()
    with stopped_at(1):
        teach(recipe, tmp_path / "run")
    with files.locked(tmp_path / "run"), pytest.raises(InputError, match="another process is at work"):
        teach(recipe, tmp_path / "run")
    result = teach(recipe, tmp_path / "run")
    with files.locked(tmp_path / "run"):
        assert teach(recipe, tmp_path / "run") == result
