"""The benchmark of language models that teach: its quick form held to its runs, its statistics to numbers by hand."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t

import preceptor
import tokens
import tokens_report as report
from preceptor.runs import read_result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    tokens.main(["--quick", "--device", "cpu", "--out", str(out)])
    return out


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokens.json").read_text())


# -- the quick form ----------------------------------------------------------------------------------------------------


def test_every_student_is_scored_and_the_settings_are_the_best_of_their_grids(made: Path) -> None:
    result = result_of(made)
    assert result["seeds"] == [0, 1]
    assert set(result["students"]) == {"ce", "smoothing", "longer", "wttm"}
    assert list(result["students"]["wttm"]) == ["last", "best", "calibrated", "two", "mse"]
    for method, folder in (("wttm", "students/best"), ("ce", "alone"), ("smoothing", "alone")):
        runs = {value: made / "seed-0" / folder / f"{method}-{value:g}" for value in result["grids"][method]}
        heldout = {value: read_result(run)["heldout"]["best"]["nll"] for value, run in runs.items()}
        assert len(heldout) == 2
        assert heldout[result["chosen"][method]] == min(heldout.values())
    taught = made / "seed-1" / "students" / "two" / f"wttm-{result['chosen']['wttm']:g}"
    assert result["students"]["wttm"]["two"]["last"]["nll"][1] == read_result(taught)["test"]["last"]["nll"]
    assert read_result(taught)["record"][0]["form"] == "dense"
    longer = made / "seed-0" / "alone" / f"longer-{result['chosen']['ce']:g}"
    assert "epochs: 2" in (longer / "recipe.yaml").read_text()
    assert not list(made.glob("seed-*/records/*/"))


def test_teachers_scores_are_those_of_their_models(made: Path) -> None:
    """Of the ensemble of both seeds, from its models' own probabilities of the test text."""
    paths = {f"{part}_path": made / "text" / f"{part}.txt" for part in ("heldout", "test")}
    rows: Any = preceptor.data.tokens(path=made / "text" / "train.txt", length=16, document_bytes=64, **paths).test
    models = [preceptor.load(made / f"seed-{seed}" / "teachers" / "ce") for seed in (0, 1)]
    with torch.no_grad():
        said = [model(rows.ids, rows.positions).double().softmax(-1) for model in models]
    counted = rows.labels >= 0
    at = ((said[0] + said[1]) / 2)[counted].gather(-1, rows.labels[counted][:, None])
    stored = json.loads((made / "seed-0" / "records" / "two.json").read_text())["test"]
    assert sum(stored["counts"]) == int(counted.sum())
    assert stored["nll"] == pytest.approx(float(-at.log().mean()), rel=1e-5)
    assert sum(stored["documents"]) == pytest.approx(float(-at.log().sum()), rel=1e-5)


def test_a_calibrated_teacher_is_at_its_runs_temperature(made: Path) -> None:
    result = result_of(made)
    found = result["teachers"]
    temperature = read_result(made / "seed-1" / "teachers" / "ce")["temperature"]["last"]
    assert result["temperature"][1] == temperature
    assert found["calibrated"]["heldout"]["nll"][1] < found["last"]["heldout"]["nll"][1]
    assert set(found["last"]["test"]["at"][0]) == {"1.25", "1.6"}


def test_the_same_command_trains_nothing_more(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = result_of(made)
    for name in ("teach", "distill", "record"):
        monkeypatch.setattr(tokens, name, lambda *_, **__: pytest.fail("trained again"))
    tokens.main(["--quick", "--device", "cpu", "--out", str(made)])
    after = result_of(made)
    assert {key: after[key] for key in ("teachers", "students", "chosen")} == {
        key: before[key] for key in ("teachers", "students", "chosen")
    }


def test_without_time_nothing_is_trained_and_the_table_says_so(tmp_path: Path) -> None:
    tokens.main(["--quick", "--device", "cpu", "--out", str(tmp_path), "--budget", "-1"])
    assert "No seed is complete yet" in (tmp_path / "tokens.md").read_text()
    assert not list(tmp_path.glob("seed-*/*/*/result.json"))


def test_parts_are_all_runs_once(made: Path) -> None:
    for size in tokens.SIZES.values():
        every = [part for phase in tokens.parts(size) for part in phase]
        assert len(every) == len(set(every))
        assert sum(part.startswith("students/") for part in every) == size.seeds * len(size.teachers)
        assert tokens.TUNED_WITH in size.teachers


def test_the_three_texts_are_apart(tmp_path: Path) -> None:
    whole = "".join(f"{number:04d}\n" for number in range(400))
    (tmp_path / "tinyshakespeare.txt.gz").write_bytes(gzip.compress(whole.encode()))
    tokens.write_texts(tokens.SIZES["cpu"], tmp_path, tmp_path)
    texts = {name: (tmp_path / "text" / f"{name}.txt").read_text() for name in ("train", "heldout", "test")}
    assert texts == {"train": whole[:200], "heldout": whole[1800:1900], "test": whole[1900:]}


# -- the statistics ----------------------------------------------------------------------------------------------------


def test_the_interval_over_documents_is_that_of_a_ratio() -> None:
    part = {"documents": [[2.0, 6.0, 4.0], [4.0, 8.0, 6.0]], "counts": [[2, 2, 2], [2, 2, 2]]}
    found = report.nats_by_document(part)
    means = np.array([3.0, 7.0, 5.0]) / 2
    assert found.value == pytest.approx(2.5)
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3))
    unlike = {"documents": [[1.0, 9.0]], "counts": [[1, 9]]}  # a nat a label in both: nothing varies
    assert report.nats_by_document(unlike).low == pytest.approx(1.0)
    assert report.nats_by_document(part, part).high == pytest.approx(0.0)


def fabricated(teachers: dict[str, list[float]], students: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """A result of these held-out NLLs of teachers and test NLLs of students; a teacher's NLL at T is its negative."""
    heldout = {name: {"nll": nll, "at": [{"1.6": -each} for each in nll]} for name, nll in teachers.items()}
    seeds = len(next(iter(teachers.values())))
    alone = {name: {"": [value] * seeds} for name, value in (("ce", 2.0), ("smoothing", 1.9), ("longer", 1.4))}
    return {
        "chosen": dict.fromkeys(students, 1.6),
        "teachers": {name: {"heldout": part} for name, part in heldout.items()},
        "students": {
            method: {name: {kind: {"nll": nll} for kind in ("best", "last")} for name, nll in each.items()}
            for method, each in (alone | students).items()
        },
    }


TEACHERS = {"last": [4.0, 4.1], "best": [2.0, 2.1], "two": [3.0, 3.1]}


def test_rank_correlations_over_teachers() -> None:
    kd = {"last": [1.8, 1.6], "best": [1.6, 1.7], "two": [1.7, 1.8]}
    result = fabricated(TEACHERS, {"kd": kd, "wttm": kd})
    found = report.foretold(result, "kd", softened=False)
    assert found["spearman"].tolist() == pytest.approx([1.0, -0.5])
    assert found["kendall"].tolist() == pytest.approx([1.0, -1 / 3])
    assert report.foretold(result, "wttm", softened=True)["spearman"].tolist() == pytest.approx([-1.0, 0.5])
    alike = fabricated(TEACHERS, {"kd": {name: [1.0, 1.0] for name in TEACHERS}})
    assert np.isnan(report.foretold(alike, "kd", softened=False)["kendall"]).all()


def test_claims_are_paired_differences_of_what_was_tried() -> None:
    kd = {"last": [1.8, 1.7], "best": [1.6, 1.7], "two": [1.7, 1.8]}
    wttm = {name: [value + 0.3 for value in values] for name, values in kd.items()}
    found = report.claims(fabricated(TEACHERS, {"kd": kd, "wttm": wttm}))
    assert list(found) == [
        "stopping early: best over last epoch",
        "two teachers over one",
        "WTTM over KD, mean of all teachers",
    ]
    assert found["stopping early: best over last epoch"].tolist() == pytest.approx([-0.2, 0.0])
    assert found["WTTM over KD, mean of all teachers"].tolist() == pytest.approx([0.3, 0.3])


def test_the_verdict_says_what_the_numbers_say() -> None:
    kd = {"last": [1.8, 1.8], "best": [1.6, 1.6], "two": [1.7, 1.7]}
    backwards = {"last": [1.7, 1.7], "best": [1.85, 1.85], "two": [1.75, 1.75]}
    kd_ranks, wttm_ranks, best, methods = report.verdict(fabricated(TEACHERS, {"kd": kd, "wttm": backwards}))
    assert "NLL ranks their students under kd (Spearman 1.00" in kd_ranks
    assert "NLL misranks their students under wttm" in wttm_ranks
    assert "'best epoch' under kd: better than cross-entropy alone (-0.400 ± 0.000)" in best
    assert "better than label smoothing (-0.300" in best
    assert "worse than cross-entropy alone, twice the epochs (+0.200" in best
    assert methods == (
        "Helps: stopping early: best over last epoch, two teachers over one; harms: WTTM over KD, mean of all "
        "teachers; makes no difference that shows: nothing."
    )
