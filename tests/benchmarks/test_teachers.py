"""The benchmark of kinds of teachers: its quick form held to its runs, its statistics to numbers by hand."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import Tensor

import images
import teachers
import teachers_report as report
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.recipe import DistillRecipe
from preceptor.runs import read_predictions, read_recipe, read_result

KINDS = [kind for family in report.FAMILIES.values() for kind in family]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teachers")
    teachers.main(["--quick", "--device", "cpu", "--out", str(out)])
    return out


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "teachers.json").read_text())


def student_of(made: Path, kind: str) -> Path:
    return report.place(made, 0, kind, result_of(made)["chosen"][kind])


def recipe_of(student: Path) -> DistillRecipe:
    found = read_recipe(student)
    assert isinstance(found, DistillRecipe)
    return found


# -- the quick form ----------------------------------------------------------------------------------------------------


def test_every_kind_is_scored_with_the_best_setting_of_its_grid(made: Path) -> None:
    result = result_of(made)
    assert result["seeds"] == [0]
    assert result["missing"] == []
    assert list(result["students"]) == KINDS
    assert set(KINDS) - set(result["teachers"]) == {"alone", "longer", "mutual_small"}
    for kind in ("temperature", "alone"):
        grid = report.GRIDS[kind]
        heldout = {v: read_result(report.place(made, 100, kind, v))["heldout"]["last"] for v in grid}
        best = heldout[result["chosen"][kind]]
        assert len(heldout) == 3
        assert best["accuracy"] == max(each["accuracy"] for each in heldout.values())
        assert result["tuning"][kind] == {f"{v:g}": each["accuracy"] for v, each in heldout.items()}
    for kind, found in result["students"].items():
        assert found["test"]["accuracy"] == [read_result(student_of(made, kind))["test"]["last"]["accuracy"]]
    table = (made / "teachers.md").read_text()
    assert all(report.NAMES[kind] in table for kind in KINDS)


def test_students_of_a_seed_differ_in_their_teachers_alone(made: Path) -> None:
    taught = [kind for kind in KINDS if kind not in ("alone", "longer", "mutual_small")]
    recipes = {kind: recipe_of(student_of(made, kind)).model_dump(exclude={"teacher", "transform"}) for kind in taught}
    assert all(recipe == recipes["cross_entropy"] for recipe in recipes.values())
    alone = read_recipe(student_of(made, "alone"))
    assert alone.optimizer.model_dump() == recipes["cross_entropy"]["optimizer"]
    assert alone.seed == recipes["cross_entropy"]["seed"]
    assert read_recipe(student_of(made, "longer")).training.epochs == 2 * alone.training.epochs


def test_teachers_are_what_they_are_called(made: Path) -> None:
    def teaches(kind: str) -> list[tuple[str, Any]]:
        places = {each.run: each for each in recipe_of(student_of(made, kind)).teacher}
        return [(str(run.relative_to(made / "seed-0" / "teachers")), each) for run, each in places.items()]

    rate = result_of(made)["chosen"]["cross_entropy"]
    base, lr = f"cross_entropy-{rate:g}", rate * 0.1
    assert [run for run, _ in teaches("cross_entropy")] == [base]
    assert [(run, each.weights) for run, each in teaches("stopped")] == [(base, "best")]
    assert [run for run, _ in teaches("ensemble")] == ["cross_entropy-0.5", "twin-0.5"]
    assert [run for run, _ in teaches("born_again_ensemble")] == [base, "born_again-1"]
    assert [run for run, _ in teaches("mutual_both")] == ["mutual-0.5/large", "mutual-0.5/small"]
    assert student_of(made, "mutual_small") == made / "seed-0" / "teachers" / "mutual-0.5" / "small"
    temperature: Any = recipe_of(student_of(made, "temperature")).transform
    assert temperature is not None
    assert temperature.temperature == result_of(made)["chosen"]["temperature"]
    several = {kind: recipe_of(student_of(made, kind)).teacher for kind in ("snapshots", "sgld", "swag")}
    assert [each.epoch for each in several["snapshots"]] == [1, 2]
    assert [each.epoch for each in several["sgld"]] == [1, 2]
    assert [each.member for each in several["swag"]] == [0, 1, 2]
    folder = made / "seed-0" / "teachers"
    drawn = read_result(folder / "swag-0.05" / "samples")["posterior"]
    assert drawn["epochs"] == [3, 4]  # those after the ones of cross-entropy
    going_on: Any = read_recipe(folder / "swag-0.05" / "run")
    assert going_on.optimizer.lr == pytest.approx(0.05 * lr)
    for name in ("sgld-0.0001", "aid-0.25"):
        assert Path(str(read_recipe(folder / name).start)) == folder / base
    assert [each.run for each in recipe_of(folder / "aid-0.25").teacher] == [student_of(made, "cross_entropy")]
    model: Any = read_recipe(folder / "dropout-0.1").model
    assert model.model_dump() == {"name": "resnet14", "dropout": 0.1}


def softmax(logits: Tensor) -> np.ndarray:
    exponents = np.exp(logits.double().numpy())
    return exponents / exponents.sum(-1, keepdims=True)


def test_what_is_said_of_a_teacher_is_of_its_outputs(made: Path) -> None:
    """By hand, of what the runs have stored of their own held-out and test outputs."""
    result = result_of(made)
    folder = made / "seed-0" / "teachers"

    def stored(*runs: str, part: str = "heldout", temperature: float = 1.0) -> np.ndarray:
        each = [read_predictions(folder / run)[f"{part}/last"] / temperature for run in runs]
        return np.mean([softmax(one) for one in each], 0)

    base = f"cross_entropy-{result['chosen']['cross_entropy']:g}"
    labels = {part: read_predictions(folder / base)[f"{part}/labels"].numpy() for part in ("heldout", "test")}
    chosen = result["chosen"]["temperature"]
    said = {
        "ensemble": stored("cross_entropy-0.5", "twin-0.5"),
        "temperature": stored(base, temperature=chosen),
        "born_again": stored("born_again-1"),
    }
    for kind, probs in said.items():
        found = result["teachers"][kind]
        truth = np.eye(4)[labels["heldout"]]
        assert found["brier"][0] == pytest.approx(((probs - truth) ** 2).sum(-1).mean(), rel=1e-4)
        assert found["nll"][0] == pytest.approx(-np.log((probs * truth).sum(-1)).mean(), rel=1e-4)
        assert found["brier_recalibrated"][0] <= found["brier"][0] + 1e-9
    both = stored("cross_entropy-0.5", "twin-0.5", part="test").argmax(-1)
    assert result["teachers"]["ensemble"]["test_accuracy"][0] == pytest.approx((both == labels["test"]).mean())
    assert result["teachers"]["temperature"]["brier_recalibrated"][0] == pytest.approx(
        result["teachers"]["cross_entropy"]["brier_recalibrated"][0], abs=1e-3
    )


def test_a_teacher_costs_the_epochs_of_all_networks_that_it_needs(made: Path) -> None:
    """Of 2 epochs each, and 2 more where a network goes on."""
    found = {kind: of["epochs"][0] for kind, of in result_of(made)["teachers"].items()}
    assert [found[kind] for kind in ("cross_entropy", "stopped", "temperature", "dropout", "sftn", "snapshots")] == [
        2
    ] * 6
    assert [found[kind] for kind in ("swag", "sgld", "ensemble", "born_again", "mutual_both", "assistant")] == [4] * 6
    assert found["aid"] == 6  # its student's, too


def test_the_same_command_trains_nothing_more(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = result_of(made)
    for name in ("teach", "distill", "teach_together", "posterior", "worth"):
        monkeypatch.setattr(teachers, name, lambda *_, **__: pytest.fail("done again"))
    teachers.main(["--quick", "--device", "cpu", "--out", str(made)])
    after = result_of(made)
    assert all(after[key] == before[key] for key in ("teachers", "students", "chosen", "tuning"))


def test_without_time_nothing_is_trained_and_the_table_says_so(tmp_path: Path) -> None:
    teachers.main(["--quick", "--device", "cpu", "--out", str(tmp_path), "--budget", "-1"])
    assert "No seed is complete yet" in (tmp_path / "teachers.md").read_text()
    assert not list(tmp_path.rglob("result.json"))


def test_a_kind_that_is_not_complete_is_said_to_be_missing(made: Path) -> None:
    grids = teachers.SIZES["quick"].grids
    assert report.collect(made, grids, [0, 1])["seeds"] == [0]
    judgement = report.judgement(student_of(made, "aid"))
    hidden = judgement.rename(judgement.with_suffix(".hidden"))
    try:
        found = report.collect(made, grids, [0])
    finally:
        hidden.rename(judgement)
    assert found["missing"] == ["aid"]
    assert "aid" not in found["students"]


def test_parts_are_all_runs_once_and_every_kind_is_tuned_alike() -> None:
    for name, size in teachers.SIZES.items():
        every = [part for phase in teachers.parts(size) for part in phase]
        assert len(every) == len(set(every))
        assert sum(part.startswith("score/") for part in every) == size.seeds * len(report.FAMILIES)
        if name != "quick":
            assert {len(values) for values in size.grids.values()} == {3}
            tuned = [part.split("/")[1] for part in every if part.startswith("tune/")]
            assert {tuned.count(family) for family in set(report.FAMILIES) - set(report.GRID_OF)} == {3}
    assert set(KINDS) == set(report.NAMES) == set(report.MEANING) == set(report.GRIDS) | set(report.GRID_OF)


def test_the_gpu_script_knows_the_piece() -> None:
    script = Path(teachers.__file__).with_name("gpu.sh")
    said = subprocess.run(["bash", script, "data", "out", "nothing"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "|teachers|" in said.stderr


def test_reduced_images_are_means_of_their_pixels() -> None:
    pixels = torch.tensor([[1, 3, 0, 0], [5, 8, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9]], dtype=torch.uint8)
    part = ArrayDataset(pixels.view(1, 1, 4, 4).repeat(3, 1, 1, 1), torch.arange(3) % 2)
    found = images.reduced(Data(part, part, ("a", "b")), 2, 2)
    train, test = (getattr(found, name) for name in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (2, 3)
    assert train.inputs.dtype == torch.uint8
    assert train.inputs[0, 0].tolist() == [[4, 0], [0, 9]]
    whole: Any = images.reduced(Data(part, part, ("a", "b")), 3).test
    assert torch.equal(whole.inputs, part.inputs)


# -- the statistics ----------------------------------------------------------------------------------------------------


def test_a_setting_is_chosen_by_held_out_accuracy_and_of_equal_ones_by_nll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"dropout-0.1": (0.5, 1.0), "dropout-0.2": (0.6, 1.2), "dropout-0.4": (0.6, 1.1)}
    last = {name: dict(zip(("accuracy", "nll"), each, strict=True)) for name, each in scores.items()}
    monkeypatch.setattr(report, "read_result", lambda run: {"heldout": {"last": last[run.name]}})
    for setting in report.GRIDS["dropout"]:
        assert report.best_setting(tmp_path, "dropout", report.GRIDS) is None
        folder = report.place(tmp_path, 100, "dropout", setting)
        folder.mkdir(parents=True)
        (folder / "result.json").touch()
    assert report.best_setting(tmp_path, "dropout", report.GRIDS) == 0.4
    assert report.best_setting(tmp_path, "dropout", {"dropout": (0.2,)}) == 0.2


def fabricated(**test: list[float]) -> dict[str, Any]:
    """A result of these test accuracies of students; a teacher's scores are its first student's, held-out ones less."""
    return {
        "seeds": [0, 1, 2],
        "teachers": {
            kind: {"brier": [1 - own[0]] * 3, "accuracy": own, "test_accuracy": own[::-1]}
            | dict.fromkeys(("brier_recalibrated", "nll"), [own[0]] * 3)
            for kind, own in test.items()
            if kind not in report.WITHOUT
        },
        "students": {
            kind: {"test": {"accuracy": own}, "heldout": {"accuracy": [1 - each for each in own]}}
            for kind, own in test.items()
        },
    }


KNOWN = fabricated(
    cross_entropy=[0.50, 0.52, 0.54],
    stopped=[0.50, 0.52, 0.54],
    dropout=[0.53, 0.525, 0.56],
    temperature=[0.40, 0.42, 0.41],
    ensemble=[0.60, 0.61, 0.65],
    alone=[0.55, 0.57, 0.59],
)


def test_gains_are_paired_and_the_best_baseline_is_chosen_by_held_out_images() -> None:
    assert report.gains(KNOWN, "cross_entropy")["ensemble"].tolist() == pytest.approx([10.0, 9.0, 11.0])
    assert report.best_baseline(KNOWN) == "temperature"  # the worst on test images
    assert report.best_baseline(fabricated(cross_entropy=[0.5, 0.5])) is None


def test_rank_correlations_are_over_kinds_each_once() -> None:
    assert report.judged(KNOWN) == ["cross_entropy", "dropout", "temperature", "ensemble"]
    of_means, each = report.foretold(KNOWN, "brier", -1)
    assert (of_means, each.tolist()) == (1.0, [1.0, 1.0, 1.0])
    assert report.foretold(KNOWN, "nll", -1)[0] == -1.0
    alike = fabricated(cross_entropy=[0.5] * 3, dropout=[0.5] * 3, ensemble=[0.5] * 3)
    assert np.isnan(report.foretold(alike, "brier", -1)[1]).all()


def test_the_verdict_says_what_the_numbers_say() -> None:
    over_ce, over_baseline, alone, ranks = report.verdict(KNOWN)
    margin = t.ppf(0.975, 2) / np.sqrt(3)  # of differences 10, 9, 11
    assert over_ce == (
        "Against the students of 'cross-entropy': better deep ensemble of two (+10.00 ± "
        f"{margin:.2f}); worse cross-entropy at a temperature (-11.00 ± {t.ppf(0.975, 2) * np.sqrt(3 / 3):.2f}); "
        "not told apart 1."
    )
    assert over_baseline.startswith("Against the students of 'cross-entropy at a temperature': better cross-entropy")
    assert alone == (
        "The students of 'cross-entropy' against those without a teacher: better none; worse none: labels alone "
        "(-5.00 ± 0.00); not told apart 0."
    )
    assert "held-out Brier score (1.00 ± 0.00)" in ranks
    assert "NLL" not in ranks
