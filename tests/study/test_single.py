"""The report of one run says what its folder holds."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app
from study.html_page import Page, assert_no_network
from training.toys import RECIPE


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    preceptor.teach(RECIPE, folder / "teacher")
    preceptor.distill(RECIPE, folder / "student", teacher=folder / "teacher", epochs=3)
    return folder


def test_a_page_with_scores_curves_and_circumstances(runs: Path) -> None:
    outcome = run("report", runs / "student")
    assert outcome.exit_code == 0
    assert "calibration error" in outcome.stdout
    assert f"report: {runs / 'student' / 'report.html'}" in outcome.stderr
    text = (runs / "student" / "report.html").read_text(encoding="utf-8")
    assert_no_network(text)
    page = Page(text)
    result = json.loads((runs / "student" / "result.json").read_text())
    for part in ("heldout", "test"):
        for scores in result[part].values():
            assert f"{scores['brier']:.4f}" in page.text
            assert f"{100 * scores['accuracy']:.2f}" in page.text
    assert f"{result['teacher']['brier']:.4f}" in page.text
    lines = [json.loads(line) for line in (runs / "student" / "metrics.jsonl").read_text().splitlines()]
    assert page.labels == [
        "Learning curves along 3 epochs: what training minimised, and the held-out Brier score, from "
        f"{lines[0]['heldout']['brier']:.4f} to {lines[-1]['heldout']['brier']:.4f}."
    ]
    assert f"at epoch {result['best_epoch'] + 1}, whose weights" in page.text
    assert result["circumstances"]["date"] in page.text
    assert "distill_weight: 0.9" in page.text


def test_a_report_changes_nothing_of_the_run(runs: Path) -> None:
    run("report", runs / "teacher")
    assert run("verify", runs / "teacher").exit_code == 0
    before = (runs / "teacher" / "last.safetensors").stat().st_mtime_ns
    preceptor.teach(RECIPE, runs / "teacher")  # goes on with the folder, which is complete
    assert (runs / "teacher" / "last.safetensors").stat().st_mtime_ns == before
    assert run("report", runs / "teacher").exit_code == 0, "a page of ours is written over"


def test_markdown_json_and_a_picture(runs: Path, tmp_path: Path) -> None:
    printed = run("report", runs / "student", "--markdown", "--picture", tmp_path / "curve.png")
    lines = [line for line in printed.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 1 + 4, "a header and its rule, the teacher, two weights on two parts"
    assert len({line.count("|") for line in lines}) == 1
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 600
    found = json.loads(run("report", runs / "student", "--json").stdout)
    assert found["verb"] == "distill"


def test_refused(runs: Path, tmp_path: Path) -> None:
    preceptor.teach(RECIPE, tmp_path / "stack", seeds=[0, 1])
    preceptor.teach(RECIPE, tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    for folder, sentence in {
        "stack": "is a stack of 2 models, and a report is of one",
        "half": "is not complete",
        "none": "holds no run, study.json or generations.json",
    }.items():
        outcome = run("report", tmp_path / folder)
        assert (outcome.exit_code, sentence in outcome.stderr) == (2, True), outcome.stderr
