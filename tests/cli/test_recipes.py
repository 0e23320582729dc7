"""Shipped recipes, listed, shown and copied; and what a shell is offered to complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app

SHIPPED = {path.stem: path for path in (Path(preceptor.__file__).parent / "recipes").glob("*.yaml")}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def refused(*arguments: object) -> str:
    outcome = run(*arguments)
    assert outcome.exit_code == 2, outcome.output
    [line] = outcome.stderr.strip().splitlines()
    return line


def test_recipes_are_listed_with_what_they_are_for() -> None:
    listed = run("recipes").stdout
    for name in SHIPPED:
        assert name in listed
    assert "A teacher for scikit-learn's digits; seconds on a CPU" in listed
    assert "…" not in listed
    assert run("recipes", "list").stdout == listed
    assert run("recipes", "list", "--json").stdout == run("recipes", "--json").stdout


def test_a_recipe_is_shown_and_copied_as_it_is(tmp_path: Path) -> None:
    text = SHIPPED["teach-digits"].read_text()
    assert run("recipes", "show", "teach-digits").stdout.strip() == text.strip()
    assert run("recipes", "copy", "teach-digits", tmp_path / "new" / "mine.yaml").exit_code == 0
    assert (tmp_path / "new" / "mine.yaml").read_text() == text
    assert run("recipes", "copy", "teach-digits", tmp_path).exit_code == 0
    assert run("teach", tmp_path / "teach-digits.yaml", "--dry-run").exit_code == 0
    assert "is there already" in refused("recipes", "copy", "teach-digits", tmp_path)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    assert refused("recipes", "show", "teach-digit").endswith("did you mean 'teach-digits'?")
    assert "no name of a YAML file" in refused("recipes", "copy", "teach-digits", tmp_path / "mine.txt")
    assert refused("recipes", "sho") == "error: no such command 'sho'. Did you mean 'show'?"
    assert refused("recipes", "copy", "teach-digits").endswith("preceptor recipes copy --help says what it takes")


def completed(*words: str, folder: Path) -> list[str]:
    """What bash would be offered for the last word."""
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_PRECEPTOR_COMPLETE": "complete_bash"}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['preceptor']\nfrom preceptor.cli import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **asked})
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_verbs_options_and_recipes(tmp_path: Path) -> None:
    (tmp_path / "teaching.yaml").touch()
    (tmp_path / "teach.txt").touch()
    assert completed("preceptor", "re", folder=tmp_path) == ["report", "recipes", "record"]
    assert completed("preceptor", "assess", "--temp", folder=tmp_path) == ["--temperature"]
    teaching = sorted(name for name in SHIPPED if name.startswith("teach"))
    assert sorted(completed("preceptor", "teach", "teach", folder=tmp_path)) == sorted([*teaching, "teaching.yaml"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["preceptor"])
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))  # of the process's parents
    outcome = CliRunner().invoke(app, ["--show-completion"], prog_name="preceptor")
    assert (outcome.exit_code, "_PRECEPTOR_COMPLETE" in outcome.stdout) == (0, True)
