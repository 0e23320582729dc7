"""Prediction studies: statistics by hand and by scipy, a whole tiny study, the three benchmarks' quick form."""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from foretold.rates import tune_rates
from foretold.recipe import PredictionStudy
from foretold.report import markdown, write_picture
from foretold.run import run_prediction
from foretold.summary import summarize
from foretold.truth import Truth
from human_images import end_to_end
from preceptor import losses
from preceptor.assess import brier, crossfitted, forecast
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.gaussian_mixture import GaussianMixture
from preceptor.errors import InputError
from preceptor.names import find
from preceptor.recipe import load, parse
from preceptor.runs import read_result, write_result
from preceptor.runs.files import load_tensors
from preceptor.study.folder import read_complete
from preceptor.training.data.samples import cut
from preceptor.training.objects.criteria import new_loss, new_objective

BENCHMARKS = Path(__file__).parents[2]
RECIPE = BENCHMARKS / "recipes" / "quick.yaml"


@pytest.fixture(scope="module")
def made() -> tuple[Data, Truth]:
    mixture = GaussianMixture.draw(num_classes=3, dimensions=5, variance=2.0)
    inputs, labels = mixture.sample(420)
    dataset = ArrayDataset(torch.from_numpy(inputs), labels, num_classes=3)
    return Data(dataset, None, ("a", "b", "c")), Truth.exact(mixture.posterior(inputs))


def small(**changes: object) -> PredictionStudy:
    raw = load(PredictionStudy, RECIPE).model_dump(mode="json")
    raw["teachers"] = {name: raw["teachers"][name] for name in ("cross_entropy", "mse")}
    raw["candidates"] = {
        "last": {"of": "cross_entropy@6"},
        "hot": {"of": "cross_entropy@6", "temperature": 3},
        "both": {"of": ["cross_entropy@6", "mse@2"]},
        "fitted": {"of": "mse@6", "family": "temperature"},
    }
    raw["losses"] = {name: raw["losses"][name] for name in ("kd", "ptloss")}
    for part in ("teach", "distill"):
        raw[part]["split"] = {"train": 150, "heldout": 120, "test": 150}
    return parse(PredictionStudy, raw | changes)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prediction") / "run"


@pytest.fixture(scope="module")
def result(made, folder) -> dict:
    return run_prediction(small(), *made, folder, command="pytest")


def test_predictions_are_the_held_out_scores_of_the_stored_teachers(result, made, folder):
    tensors, _ = load_tensors(folder / "teachers" / "cross_entropy" / "predictions.safetensors")
    logits, labels = tensors["heldout/last"], tensors["heldout/labels"]
    expected = [brier(forecast(rows), y).mean() for rows, y in zip(logits, labels, strict=True)]
    assert result["candidates"]["last"]["losses"]["kd"]["brier"] == pytest.approx(expected, rel=1e-5)
    hot = [brier(forecast(rows / 3), y).mean() for rows, y in zip(logits, labels, strict=True)]
    assert result["candidates"]["hot"]["losses"]["kd"]["brier"] == pytest.approx(hot, rel=1e-5)


def test_a_fitted_candidate_is_scored_without_the_labels_it_was_fitted_to(result, folder):
    tensors, _ = load_tensors(folder / "teachers" / "mse" / "predictions.safetensors")
    for i, (rows, labels) in enumerate(zip(tensors["heldout/last"], tensors["heldout/labels"], strict=True)):
        unseen = crossfitted(rows.log_softmax(-1), labels, "temperature")
        expected = brier(forecast(unseen), labels).mean()
        assert result["candidates"]["fitted"]["losses"]["kd"]["brier"][i] == pytest.approx(expected, rel=1e-5)


def test_outcomes_are_the_expected_accuracy_and_distance_of_the_stored_students(result, made, folder):
    data, truth = made
    logits = load_tensors(folder / "students" / "kd" / "predictions.safetensors")[0]["test/last"]
    study = small()
    for i, seed in enumerate(study.seeds):
        index = cut(study.teach, data, seed).parts["test"].numpy()
        probs, posterior = logits[i].double().softmax(-1).numpy(), truth.probs[index]
        by_hand = np.mean([posterior[row, probs[row].argmax()] for row in range(len(index))])
        assert result["losses"]["kd"]["students"]["last"]["accuracy"][i] == pytest.approx(by_hand)
        distance = ((probs - posterior) ** 2).sum(1).mean()
        assert result["losses"]["kd"]["students"]["last"]["distance"][i] == pytest.approx(distance, rel=1e-5)


def test_auto_sees_neither_the_truth_nor_a_test_label(result, made, tmp_path):
    """With inputs of test samples that are all wrong, and another truth, it chooses the same."""
    data, truth = made
    study = small()
    inputs = data.train.inputs.clone()
    shares = [cut(study.teach, data, seed).parts for seed in study.seeds]
    used = torch.cat([parts[name] for parts in shares for name in ("train", "heldout")])
    unused = torch.ones(len(inputs), dtype=torch.bool).index_fill(0, used, False)
    assert unused.any()
    inputs[unused] = 100.0
    other = Data(ArrayDataset(inputs, data.train.labels, num_classes=3), None, data.class_names)
    uniform = Truth.exact(np.full_like(truth.probs, 1 / 3))
    again = run_prediction(study, other, uniform, tmp_path / "run", command="pytest")
    for loss in ("kd", "ptloss"):
        assert again["losses"][loss]["choices"] == result["losses"][loss]["choices"]
        assert again["losses"][loss]["oracle"] != result["losses"][loss]["oracle"]


def test_two_workers_find_what_one_does(result, made, tmp_path):
    again = run_prediction(small(workers=2), *made, tmp_path / "run", command="pytest")
    for part in ("candidates", "hard", "losses"):
        assert json.dumps(again[part]) == json.dumps(result[part])


def test_a_complete_study_is_read_and_another_is_refused(result, made, folder):
    assert run_prediction(small(), *made, folder, command="other") == result
    with pytest.raises(InputError, match="holds another study"):
        run_prediction(small(name="other"), *made, folder, command="pytest")


def test_the_table_and_the_picture(result, tmp_path):
    text = markdown(result)
    assert all(f"| {name} |" in text for name in ("last", "hot", "both", "fitted"))
    assert "oracle gap closed by `auto`" in text
    assert "best candidate: picked out of 4 on these same seeds" in text
    assert "Made by `pytest`; seeds 2 (0, 1); preceptor " in text
    assert write_picture(result, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_rates_are_tuned_with_seeds_of_their_own(made, tmp_path):
    with pytest.raises(InputError, match="the seed 0 is one of the study's own"):
        tune_rates(small(), made[0], [0.001], [0], tmp_path)
    found = tune_rates(small(), made[0], [1e-6, 0.01], [7], tmp_path)
    assert found["cross_entropy"][0.01] < found["cross_entropy"][1e-6]


def fake(predicted: np.ndarray, accuracy: np.ndarray) -> dict:
    """A result of as many candidates as rows, one column a seed."""
    names = [f"c{i}" for i in range(len(predicted))]

    def scores(row: np.ndarray) -> dict:
        keys = ("brier", "brier_recalibrated", "distance_heldout", "distance_transfer")
        return {key: row.tolist() for key in keys}

    students = {
        n: {"accuracy": a.tolist(), "accuracy_best": a[::-1].tolist(), "distance": (1 - a).tolist()}
        for n, a in zip(names, accuracy, strict=True)
    }
    constant = {"distance": [0.0] * accuracy.shape[1], "accuracy_best": [0.0] * accuracy.shape[1]}
    return {
        "schema_version": 1,
        "seeds": list(range(accuracy.shape[1])),
        "candidates": {
            n: {
                "accuracy": (1 - row).tolist(),
                "nll": row.tolist(),
                "calibration_error": row.tolist(),
                "losses": {"kd": scores(row)},
            }
            for n, row in zip(names, predicted, strict=True)
        },
        "hard": {"accuracy": [0.5] * accuracy.shape[1], **constant},
        "losses": {
            "kd": {
                "students": students,
                "oracle": {"accuracy": [0.9] * accuracy.shape[1], **constant},
                "auto": {"accuracy": [0.8] * accuracy.shape[1], **constant},
            }
        },
    }


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(InputError, match="the study has format 3, newer than this Preceptor's 2; upgrade"):
        summarize(fake(np.ones((3, 2)), np.ones((3, 2))) | {"schema_version": 3})


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    predicted, accuracy = rng.random((9, 6)), rng.random((9, 6))
    found = summarize(fake(predicted, accuracy))["kd"]
    expected = spearmanr(-predicted.mean(1), accuracy.mean(1)).statistic
    assert found.correlation.value == pytest.approx(expected)
    assert found.guesses["nll"].value == pytest.approx(expected)
    assert found.with_distance.value == pytest.approx(expected)
    assert found.early_stopped.value == pytest.approx(expected)
    best = np.argsort(predicted.mean(1))[:4]
    half = spearmanr(-predicted[best].mean(1), accuracy[best].mean(1)).statistic
    assert found.better_half.value == pytest.approx(half)


def test_a_perfect_prediction_and_its_reverse() -> None:
    accuracy = np.linspace(0.5, 0.8, 8)[:, None] + np.zeros((8, 4))
    right, wrong = (summarize(fake(p, accuracy))["kd"] for p in (1 - accuracy, accuracy))
    assert right.correlation.value == right.ceiling == right.better_half.value == pytest.approx(1)
    assert wrong.correlation.value == pytest.approx(-1)
    assert right.regret.value == pytest.approx(0)
    assert wrong.regret.value == pytest.approx(30)


def test_closure_by_hand() -> None:
    accuracy = np.array([[0.5, 0.5], [0.6, 0.8], [0.9, 0.9]])
    found = summarize(fake(1 - accuracy, accuracy))["kd"]
    assert [found.closure[f"c{i}"].value for i in range(3)] == pytest.approx([0, 0.5, 1])
    assert found.auto_closure.value == pytest.approx(0.75)


def test_there_is_no_gap_to_close_where_the_truth_teaches_worse_than_labels() -> None:
    raw = fake(np.ones((3, 2)), np.full((3, 2), 0.4))
    raw["losses"]["kd"]["oracle"]["accuracy"] = [0.4, 0.4]
    assert np.isnan(summarize(raw)["kd"].closure["c0"].value)


def test_the_noise_ceiling_is_what_a_perfect_prediction_reaches() -> None:
    """Spearman and Brown's formula against a simulation: 200 candidates, of which a prediction knows the true worth."""
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(200, 1))
    found = summarize(fake(-worth.repeat(8, 1), worth + 2 * rng.normal(size=(200, 8))))["kd"]
    assert found.halves < found.correlation.value - 0.1
    assert found.ceiling == pytest.approx(found.correlation.value, abs=0.03)


def test_auto_is_compared_with_a_student_of_the_truth_under_its_own_task() -> None:
    raw = fake(np.ones((3, 2)), np.ones((3, 2)))
    raw["losses"]["kd"]["oracle_of_auto"] = raw["losses"]["kd"]["oracle"] | {"accuracy": [0.875, 0.875]}
    found = summarize(raw)["kd"]
    assert found.auto_closure.value == pytest.approx(0.8)
    assert found.closure["c0"].value == pytest.approx(0.5 / 0.4)


def test_the_oracle_of_auto_has_the_coefficients_that_auto_set(result) -> None:
    kd, ptloss = result["losses"]["kd"], result["losses"]["ptloss"]
    assert kd["oracle_of_auto"] == kd["oracle"]
    set_to_0 = [choice["transform"] is None or choice["transform"]["kind"] != "proxy" for choice in ptloss["choices"]]
    assert any(set_to_0)
    for i, plain in enumerate(set_to_0):  # PTLoss without perturbation is KL, and that is KD at T = 1
        same = ptloss["oracle_of_auto"]["distance"][i] == pytest.approx(kd["oracle"]["distance"][i], rel=1e-5)
        assert same == plain
        assert ptloss["oracle"]["distance"][i] != pytest.approx(kd["oracle"]["distance"][i], rel=1e-5)


def one_teacher(**entry: object) -> dict:
    both = {"cross_entropy": {"objective": "cross_entropy"}, "mse": {"objective": "mse"} | entry}
    return {"teachers": both, "candidates": {"a": {"of": "mse@1"}, "b": {"of": "mse@2"}}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": {"a": {"of": "cross_entropy@5.0"}, "b": {"of": "mse@1"}}}, "did you mean 'cross_entropy@5'"),
        (
            {"candidates": {"a": {"of": "mse@1", "temperature": 2, "family": "vector"}, "b": {"of": "mse@1"}}},
            "leave one",
        ),
        ({"seeds": [0]}, "'seeds'"),
        ({"seeds": [0, 0, 1]}, "seeds repeat"),
        ({"candidates": {"a": {"of": ["mse@1", "mse@1"]}, "b": {"of": "mse@1"}}}, "'mse@1' more than once"),
        (one_teacher(settings={"split": {"heldout": 9}}), r"teachers.mse.settings.split differs from teach.split"),
        (one_teacher(settings={"training": {"keep": "last"}}), "training of teachers.mse has no list"),
        (one_teacher(settings={"training": {"checkpoint_epochs": 5}}), "training of teachers.mse has no list"),
        ({"losses": {"hard": {"loss": "kd"}}}, "losses has 'hard'"),
        (one_teacher(weights="best"), "teachers.mse asks for weights 'best'"),
        ({"teachers": {"a": {"of": "b"}}}, "teachers.a has no objective"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"candidates": {"a": {"of": "mse@1", "family": "vectr"}, "b": {"of": "mse@1"}}},
            r"candidates\.a\.family is 'vectr'; did you mean 'vector'",
        ),
        ({"losses": {"kd": {"loss": "kdd"}}}, "no loss called 'kdd'"),
        ({"losses": {"ttm": {"loss": {"name": "ttm", "temperature": -1}}}}, "temperature"),
        ({"teachers": {"cross_entropy": {"objective": "mse"}, "mse": {"objective": "msse"}}}, "called 'msse'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(made, tmp_path, changes: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run_prediction(small(**changes), *made, tmp_path / "run", command="pytest")
    assert not (tmp_path / "run" / "teachers").exists()


def test_a_study_stopped_amid_an_epoch_goes_on(made, result, folder, tmp_path) -> None:
    """What such a stop saves has as many whole epochs behind it as the checkpoint of an epoch that candidates need."""
    copy = tmp_path / "run"
    shutil.copytree(folder / "teachers", copy / "teachers")
    whole = next((copy / "teachers" / "mse" / "checkpoints").glob("epoch-0002-step-*"))
    step = int(whole.name.rsplit("-", 1)[1])
    stopped = whole.with_name(f"epoch-0002-step-{step + 1:08d}")
    shutil.copytree(whole, stopped)
    state = json.loads((stopped / "state.json").read_text())
    state["progress"] |= {"step": step + 1, "step_in_epoch": 1}
    (stopped / "state.json").write_text(json.dumps(state))
    write_result(copy / "teachers" / "mse", read_result(copy / "teachers" / "mse"))
    again = run_prediction(small(), *made, copy, command="pytest")
    assert again["candidates"] == result["candidates"]


ONE_LOSS = 'losses={"kd":{"loss":"kd"}}'


@pytest.mark.parametrize("name", ["known_truth seeds=[0,2]", f"human_text {ONE_LOSS}", "human_images --gpu"])
def test_the_quick_form_of_every_benchmark_runs(name: str, tmp_path: Path) -> None:
    script, *flags = name.split()
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *flags, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "oracle gap closed by `auto`" in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/prediction.json")]
    assert len(results) == (2 if script == "human_text" else 1)
    assert results[0]["seeds"] == ([0, 2] if "seeds" in name else [0, 1])


# -- a truth that is known of some samples only ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def partly(made) -> tuple[Data, Truth]:
    """The truth of the last 250 samples is known; they are held out and tested on."""
    data, truth = made
    pool = torch.arange(170, 420)
    return replace(data, pools={"heldout": pool, "test": pool}), Truth.exact(truth.probs[170:]).after(170)


def pooled(**changes: object) -> PredictionStudy:
    raw = small().model_dump(mode="json")
    for part in ("teach", "distill"):
        raw[part]["split"] = {"heldout": 120, "test": "rest"}
    return parse(PredictionStudy, raw | changes)


@pytest.fixture(scope="module")
def blind(partly, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("blind") / "run"
    return run_prediction(pooled(), *partly, folder, command="pytest"), folder


@pytest.mark.filterwarnings("error")
def test_where_the_truth_of_what_students_see_is_unknown(blind, tmp_path):
    """No student of the truth, and nothing that needs one; all else is there."""
    result, folder = blind
    assert read_complete(folder / "prediction.json") == result
    assert result["losses"]["kd"]["oracle"] is None
    scores = result["candidates"]["last"]["losses"]["kd"]
    assert scores["distance_transfer"] == [None, None]
    assert np.isfinite(scores["distance_heldout"]).all()
    found = summarize(result)["kd"]
    for unknown in (found.oracle, found.auto_closure, found.closure["last"], found.early_stopped_gap):
        assert np.isnan(unknown.value)
    assert np.isnan(found.distance_transfer.value)
    assert np.isfinite([found.auto.value, found.correlation.value, found.with_distance.value, found.ceiling]).all()
    text = markdown(result)
    assert "| student of the truth, accuracy % | – | – |" in text
    assert "nan" not in text
    assert write_picture(result, tmp_path / "picture.png").stat().st_size > 0


def test_students_in_several_stacks_are_those_of_one(blind, partly, tmp_path):
    several = run_prediction(pooled(students_per_stack=3), *partly, tmp_path / "run", command="pytest")
    assert len(list((tmp_path / "run" / "students" / "kd").iterdir())) == 4  # 5 teachers x 2 seeds by threes
    for name, outcome in blind[0]["losses"]["kd"]["students"].items():
        assert several["losses"]["kd"]["students"][name]["distance"] == pytest.approx(outcome["distance"], rel=1e-4)


def test_a_truth_of_other_samples_is_refused(made, tmp_path):
    data, truth = made
    with pytest.raises(InputError, match=r"the truth has shape \(1, 3\) for 420 samples of 3 classes"):
        run_prediction(small(), data, Truth.exact(truth.probs[:1]), tmp_path / "run", command="pytest")


def test_a_test_sample_of_unknown_truth_is_refused(partly, tmp_path):
    data, truth = partly
    with pytest.raises(InputError, match="the truth of some test samples is not known"):
        run_prediction(small(), replace(data, pools=None), truth, tmp_path / "run", command="pytest")


def test_the_large_form_of_the_images_benchmark() -> None:
    study = load(PredictionStudy, BENCHMARKS / "recipes" / "human-images-gpu.yaml")
    assert len(study.seeds) >= 5
    assert len(study.candidates) >= 20
    assert {entry.loss.name for entry in study.losses.values()} == {*losses.__all__} - {"CTKD"}  # which no stack takes
    for entry in study.losses.values():
        new_loss(entry.loss, 10)
    for name in study.teachers:
        new_objective(study.teach_recipe(name).objective, 10)
    for recipe in (study.teach, study.distill):
        assert find("model", recipe.model.name)


def test_its_data(tmp_path: Path) -> None:
    """Training images with curated labels, behind them CIFAR-10H's with one rater's, and the truth of these."""
    pixels = np.arange(7, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 3, 32, 32), np.uint8)
    names = np.array([f"class {i}" for i in range(10)])
    labels = {"train_labels": np.array([0, 1, 2, 3]), "test_labels": np.array([0, 0, 0])}
    np.savez(tmp_path / "a.npz", train_inputs=pixels[:4], test_inputs=pixels[4:], class_names=names, **labels)
    np.savez(tmp_path / "h.npz", counts=50 * np.eye(10, dtype=np.uint8)[[7, 8, 9]])
    data, truth = end_to_end(argparse.Namespace(data=tmp_path / "a.npz", counts=tmp_path / "h.npz"))
    assert data.train.labels.tolist() == [0, 1, 2, 3, 7, 8, 9]
    assert data.train.inputs[:, 0, 0, 0].tolist() == list(range(7))
    assert {name: pool.tolist() for name, pool in data.pools.items()} == {"heldout": [4, 5, 6], "test": [4, 5, 6]}
    assert [truth.knows(torch.tensor([i])) for i in range(7)] == [False] * 4 + [True] * 3
    assert truth.probs[4:].argmax(1).tolist() == [7, 8, 9]


def test_a_study_begun_by_an_older_version_goes_on(result, made, folder):
    """One that did not know a key which has a default now."""
    path = folder / "study.yaml"
    text = path.read_text()
    assert "  transform: null\n" in text
    path.write_text(text.replace("  transform: null\n", ""))
    (folder / "prediction.json").write_text(json.dumps(result))  # nor did it write checksums
    assert run_prediction(small(), *made, folder, command="pytest") == result
