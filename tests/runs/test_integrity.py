"""What changed in a finished folder is noticed: by `verify`, and by whoever reads the file."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import preceptor
from preceptor import runs
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef
from preceptor.runs import files
from preceptor.runs.verify import verify
from preceptor.study.grid import run_study
from preceptor.study.recipe import Study
from preceptor.study.teachers import keep_teaching, read_candidates
from training.toys import RECIPE, distill_recipe, teach_recipe

OLD = Path(__file__).parents[1] / "fixtures" / "schema1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of file, and another of the same names."""
    folder = tmp_path_factory.mktemp("whole")
    for name, seed in (("run", 0), ("other", 1)):
        recipe = teach_recipe("average.decay=0.9", "training.keep=all", "calibrate=true", f"seed={seed}")
        preceptor.teach(recipe, folder / name)
        keep_teaching(folder / name)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def contents(run: Path) -> list[str]:
    """Every file of a run but its lock."""
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p.name != ".lock")


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# Who reads what: everything that is read when a run is used in this way.
READERS: dict[str, Callable[[Path], Any]] = {
    "recipe.yaml": runs.read_recipe,
    "result.json": runs.read_result,
    "objects.json": runs.read_objects,
    "splits.json": runs.read_splits,
    "predictions.safetensors": runs.heldout_labels,
    "last.safetensors": preceptor.load,
    "best.safetensors": lambda run: runs.load_teacher(TeacherRef(run=run, weights="best")),
    "average.safetensors": lambda run: runs.read_weights(run / "average.safetensors"),
    "teaching.safetensors": lambda run: preceptor.load(f"{run}:teaching"),
    "choice.json": keep_teaching,
    "checkpoints/epoch-0001-step-00000003/state.safetensors": lambda run: preceptor.load(f"{run}:epoch-1"),
    "checkpoints/epoch-0001-step-00000003/state.json": lambda run: read_candidates([f"{run}:epochs"]),
    "checkpoints/epoch-0002-step-00000006/state.safetensors": lambda run: read_candidates([f"{run}:epochs"]),
    "checkpoints/epoch-0002-step-00000006/state.json": runs.kept_epochs,
}


def test_every_file_of_a_run_is_known_here(whole: Path) -> None:
    """metrics.jsonl is read by no one when the run is complete."""
    assert set(contents(whole / "run")) == set(READERS) | {"metrics.jsonl"}
    found = verify(whole / "run")
    assert (found.num_files, found.problems, found.unchecked) == (len(READERS) + 1, (), ())


def flips(whole: Path, number: int) -> Iterator[tuple[str, int]]:
    """Bits of a run, every file as often as any other."""
    draw = random.Random(0)
    for name in contents(whole / "run"):
        for _ in range(number):
            yield name, draw.randrange(8 * (whole / "run" / name).stat().st_size)


def test_a_flipped_bit_is_named(whole: Path, run: Path) -> None:
    for name, bit in flips(whole, 15):
        flip(run / name, bit)
        found = verify(run)
        assert [name in problem for problem in found.problems] == [True], (name, bit)
        if name in READERS:
            with pytest.raises(InputError, match=Path(name).name):
                READERS[name](run)
        flip(run / name, bit)
    assert verify(run).problems == ()


@pytest.mark.parametrize("name", [*READERS, "metrics.jsonl"])
def test_a_file_of_another_run_is_named(name: str, run: Path) -> None:
    shutil.copyfile(run.parent / "other" / name, run / name)
    problems = verify(run).problems
    if name == "objects.json":  # both runs were made with objects of none
        assert problems == ()
        return
    assert problems
    if name != "result.json":  # all others differ from what that one lists
        assert [name in problem for problem in problems] == [True]
    if name in READERS and name != "result.json":
        with pytest.raises(InputError, match=r"damaged or of another run"):
            READERS[name](run)
    if name == "result.json":
        for other in ("recipe.yaml", "last.safetensors", "predictions.safetensors"):
            with pytest.raises(InputError, match=r"damaged or of another run"):
                READERS[other](run)


@pytest.mark.parametrize("name", ["last.safetensors", "objects.json", "splits.json", "recipe.yaml"])
def test_a_missing_file_is_named(name: str, run: Path) -> None:
    (run / name).unlink()
    assert [name in problem for problem in verify(run).problems] == [True]
    with pytest.raises(InputError, match=r"is missing|no run folder|has no 'last' weights"):
        READERS[name](run)


def test_a_planted_file_is_refused(run: Path) -> None:
    preceptor.teach(teach_recipe(), run.parent / "plain")
    plain, other = run.parent / "plain", run.parent / "other"
    shutil.copyfile(other / "average.safetensors", plain / "average.safetensors")
    shutil.copytree(
        other / "checkpoints" / "epoch-0001-step-00000003", plain / "checkpoints" / "epoch-0001-step-00000003"
    )
    for use in (lambda run: preceptor.load(f"{run}:average"), runs.kept_epochs):
        with pytest.raises(InputError, match=r"none of the files that the run's result\.json lists"):
            use(plain)
    assert len(verify(plain).unchecked) == 3


def test_a_complete_run_is_not_returned_damaged(run: Path) -> None:
    """The verbs that would only look at a complete run look at its checksums, too."""
    recipe = runs.read_recipe(run)
    flip(run / "recipe.yaml", 100)
    with pytest.raises(InputError, match=r"recipe\.yaml' is damaged"):
        preceptor.teach(recipe, run)


def test_a_damaged_teacher_teaches_nobody(run: Path, tmp_path: Path) -> None:
    flip(run / "last.safetensors", 8 * ((run / "last.safetensors").stat().st_size - 10))
    with pytest.raises(InputError, match=r"last\.safetensors' is damaged"):
        preceptor.distill(distill_recipe(f"teacher={run}"), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_another_runs_choice_is_refused(run: Path) -> None:
    for name in ("choice.json", "teaching.safetensors"):
        shutil.copyfile(run.parent / "other" / name, run / name)
    with pytest.raises(InputError, match=r"choice\.json' is damaged or of another run"):
        preceptor.load(f"{run}:teaching")
    assert ["choice.json" in problem for problem in verify(run).problems] == [True]


def test_a_file_is_read_once_a_process(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preceptor.load(run)
    monkeypatch.setattr(files, "digest", lambda path: pytest.fail(f"{path} again"))
    preceptor.load(run)


def test_format_1_is_said_to_be_unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(OLD / "teacher", tmp_path / "teacher")
    for _ in range(2):
        preceptor.load(tmp_path / "teacher")
    assert capsys.readouterr().err.count("is of format 1, which has no checksums: its files are read unchecked") == 1
    assert "was written without checksums" in verify(tmp_path / "teacher").unchecked[0]
    content = json.loads((tmp_path / "teacher" / "result.json").read_text())
    (tmp_path / "teacher" / "result.json").write_text(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(InputError, match=r"result\.json' is damaged"):
        preceptor.load(tmp_path / "teacher")


def test_an_interrupted_run_is_held_to_its_checkpoints(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "choice.json").unlink()
    assert verify(run).problems == ()
    flip(run / "checkpoints" / "epoch-0002-step-00000006" / "state.safetensors", 9999)
    assert ["epoch-0002-step-00000006" in problem for problem in verify(run).problems] == [True]


def test_a_study_vouches_for_its_runs(tmp_path: Path) -> None:
    parts = dict.fromkeys(("teach", "distill", "baseline"), RECIPE)
    raw = {
        "name": "tiny",
        "seeds": [0],
        "teachers": {"plain": {"objective": "cross_entropy"}},
        "losses": {"kd": {"loss": "kd"}},
        **parts,
    }
    study = Study.model_validate(raw)
    run_study(study, tmp_path / "study", command="none")
    assert verify(tmp_path / "study").problems == verify(tmp_path / "study").unchecked == ()
    for name in ("study.json", "study.yaml", "baseline/result.json", "teachers/plain/last.safetensors"):
        flip(tmp_path / "study" / name, 1000)
        called = CliRunner().invoke(app, ["verify", str(tmp_path / "study")])
        assert (called.exit_code, Path(name).name in called.output) == (1, True)
        if name.startswith("study."):
            called = CliRunner().invoke(app, ["report", str(tmp_path / "study")])
            assert (called.exit_code, f"{name}' is" in called.output) == (2, True)
        flip(tmp_path / "study" / name, 1000)
    called = CliRunner().invoke(app, ["report", str(tmp_path / "study")])
    assert called.exit_code == 0, called.output
    called = CliRunner().invoke(app, ["verify", str(tmp_path / "study"), "--json"])
    assert ["report.html" in text for text in json.loads(called.stdout)["unchecked"]] == [True]


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        verify(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run and no study"):
        verify(tmp_path)
