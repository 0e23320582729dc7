"""Files and folders that are somebody else's: nothing is written over, nothing removed; and paths of any name."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.runs import files
from preceptor.runs.references import terms_of
from preceptor.training import teach
from training.toys import teach_recipe


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    teach(teach_recipe(), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        ("study", "quickstart", "--out"),
        ("quickstart", "--resume"),
        ("generations", "generations-fashion-mnist", "--out"),
        ("teach", "teach-digits", "--out"),
        ("distill", "distill-digits", "split={train: 150, heldout: 50, test: 100}", "--teacher", "RUN", "--out"),
    ],
)
@pytest.mark.parametrize("names", [("report.html", ".notes.txt.tmp-7"), ("result.json",)])
def test_a_folder_of_somebody_elses(words: tuple[str, ...], names: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    for name in names:
        (thesis / name).write_text("mine")
    before = contents(thesis)
    result = command(*(run if word == "RUN" else word for word in words), thesis)
    assert result.exit_code == 2, result.output
    assert f"error: '{thesis}' exists and is no " in result.output
    assert contents(thesis) == before


def test_what_others_keep_beside_a_run_stays(run: Path) -> None:
    mine = run / ".notes.txt.tmp-7"
    mine.write_text("mine")
    teach(teach_recipe(), run)
    assert mine.read_text() == "mine"
    mine.unlink()


def test_a_page_is_not_written_over_weights(run: Path, tmp_path: Path) -> None:
    before = (run / "last.safetensors").read_bytes()
    result = command("assess", run, "--page", run / "last.safetensors")
    assert result.exit_code == 2
    assert "is there and is no page of Preceptor's; give another name, or remove it" in result.output
    assert (run / "last.safetensors").read_bytes() == before
    page = tmp_path / "teachers.html"
    for _ in range(2):  # our own page is written anew
        assert command("assess", run, "--page", page).exit_code == 0
    page.write_text("<html>mine")
    assert command("assess", run, "--page", page).exit_code == 2
    assert page.read_text() == "<html>mine"


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_file_modes_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        teach(teach_recipe(), tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    del modes[".lock"]  # filelock's own
    assert set(modes.values()) == {mode}, modes


@pytest.mark.parametrize("name", ["lr=0.1", "a+b", "a:b", "x[1]", "x[/b]", "a=b+c:d[e]"])
def test_a_path_that_exists_is_a_path(name: str, run: Path, tmp_path: Path) -> None:
    link, other = tmp_path / name, tmp_path / f"other {name}"
    for path in (link, other):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(run, target_is_directory=True)
    assert [[source.run for source in term.sources] for term in terms_of(f"{link}+{other}:last")] == [[link], [other]]  # type: ignore[union-attr]
    result = command("assess", link, "--json")
    assert result.exit_code == 0, result.output
    assert name in result.output
    student = ["distill", "distill-digits", "training.epochs=1", "training.device=cpu", "--dry-run"]
    assert str(link) in command(*student, "--teacher", link).output
    chosen = command(*student, "--teacher", "auto", link)
    assert "is no KEY=VALUE" not in chosen.output
    assert "has no" not in chosen.output


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_a_lock_that_was_removed_is_no_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)

    def second(refused: Callable[[], None] = lambda: None) -> None:
        with files.locked(tmp_path):
            refused()

    with files.locked(tmp_path):
        (tmp_path / ".lock").unlink()
        with pytest.raises(InputError, match="another process is at work"):
            second()
    second()
