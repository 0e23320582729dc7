"""A study on a tiny grid: its numbers by hand, its workers, its time, and what interrupts it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from preceptor.errors import InputError
from preceptor.recipe import TeacherRef, dump, parse
from preceptor.runs import files, load_teacher
from preceptor.runs.files import load_tensors
from preceptor.study.folder import Clock, read_complete
from preceptor.study.generations import run_generations
from preceptor.study.grid import run_study
from preceptor.study.recipe import Generations, Study
from preceptor.tasks.stack import member_state
from preceptor.training import distill, load_model, teach
from preceptor.training.data.samples import cut, load_data
from training.toys import assert_close, snapshot, weights

BASE: dict[str, Any] = {
    "data": "digits",
    "split": {"train": 100, "heldout": 100, "transfer": 100, "test": "rest"},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adamw", "lr": 0.02},
    "training": {"epochs": 2, "batch_size": 32, "device": "cpu"},
}
PLAIN: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 3],
    "teach": BASE,
    "distill": BASE,
    "baseline": BASE,
    "teachers": {"strict": {"objective": "cross_entropy"}},
    "losses": {"kd": {"loss": {"name": "kd", "temperature": 1.0}}},
}
CALIBRATED: dict[str, Any] = PLAIN | {
    "teach": BASE | {"calibrate": True, "training": BASE["training"] | {"keep": "all"}},
    "teachers": PLAIN["teachers"]
    | {"cooled": {"of": "strict", "calibrated": True}, "early": {"of": "strict", "epoch": 1}},
    "losses": PLAIN["losses"] | {"ttm": {"loss": {"name": "ttm", "temperature": 2.0}}, "dist": {"loss": "dist"}},
}


def tiny(raw: dict[str, Any] = PLAIN, **changes: Any) -> Study:
    return parse(Study, raw | changes)


@pytest.fixture(scope="module", params=[True, False], ids=["stacked", "single"])
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calibrated") / "out"
    return folder, run_study(tiny(CALIBRATED, stack_teachers=request.param), folder, command="test")


def stored(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The teachers' held-out logits (S, n, C) and labels as their runs stored them, and their temperatures."""
    places = sorted((folder / "teachers" / "strict").glob("seed-*")) or [folder / "teachers" / "strict"]
    found = [load_tensors(place / "predictions.safetensors")[0] for place in places]
    fitted = [json.loads((place / "result.json").read_text())["temperature"]["last"] for place in places]
    logits, labels = (torch.stack([one[f"heldout/{key}"] for one in found]) for key in ("last", "labels"))
    return logits.flatten(0, -3), labels.flatten(0, -2), torch.tensor(fitted).view(-1, 1, 1)


def brier(probabilities: Tensor, labels: Tensor) -> list[float]:
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    return (probabilities - truth).square().sum(-1).mean(-1).tolist()


def test_optimum_brier_by_hand(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """KD's student ends at p, TTM's at p flattened by T; of DIST nothing is known, and p is the guess."""
    folder, result = calibrated
    logits, labels, temperature = stored(folder)
    for name, seen in (("strict", logits.double()), ("cooled", logits.double() / temperature)):
        found = result["teachers"][name]["optimum_brier"]
        assert found["kd"] == pytest.approx(brier(seen.softmax(-1), labels), abs=1e-6)
        assert found["ttm"] == pytest.approx(brier((seen / 2).softmax(-1), labels), abs=1e-6)
        assert found["dist"] == found["kd"] == pytest.approx(result["teachers"][name]["heldout"]["brier"])


def test_the_brier_score_at_the_best_temperature_is_the_lowest_of_all(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """By a search of scipy's; what only changes the temperature changes nothing of it."""
    folder, result = calibrated
    logits, labels, _ = stored(folder)
    found = result["teachers"]["strict"]
    for i, (rows, truth) in enumerate(zip(logits.double(), labels, strict=True)):

        def at(scale: float, rows: Tensor = rows, truth: Tensor = truth) -> float:
            return brier((scale * rows).softmax(-1)[None], truth[None])[0]

        best = minimize_scalar(at, bounds=(0.05, 20), method="bounded").fun
        for value in (found["brier_recalibrated"][i], *(v[i] for v in found["optimum_brier_recalibrated"].values())):
            assert value == pytest.approx(best, abs=1e-6)
        assert best < found["heldout"]["brier"][i]
    cooled = result["teachers"]["cooled"]
    assert cooled["brier_recalibrated"] == pytest.approx(found["brier_recalibrated"], abs=1e-6)


def test_a_teacher_that_stopped_early(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """Its scores, and one of its students, from the weights that `load_teacher` gives of that epoch."""
    folder, result = calibrated
    stacked = (folder / "teachers" / "strict" / "result.json").exists()
    run = folder / "teachers" / "strict" / ("" if stacked else "seed-3")
    alone = load_teacher(TeacherRef(run=run, epoch=1, member=1 if stacked else None))
    study = tiny(CALIBRATED)
    data = load_data(study.teach)
    samples = cut(study.teach, data, 3)
    found = result["teachers"]["early"]
    for part in ("heldout", "test"):
        batch = samples.train[samples.parts[part].tolist()]
        probs = alone(batch).detach().double().softmax(-1)
        assert found[part]["brier"][1] == pytest.approx(brier(probs[None], batch["label"][None])[0], abs=1e-6)
    recipe = study.distill.model_copy(update={"seed": 3, "loss": study.losses["kd"].loss})
    student = distill(recipe, teacher=alone)
    ours = result["students"]["kd"]["early"]["heldout"]["brier"][1]
    assert student["heldout"]["last"]["brier"] == pytest.approx(ours, abs=1e-5)
    assert abs(ours - result["students"]["kd"]["strict"]["heldout"]["brier"][1]) > 1e-3


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"of": "strict", "epoch": 1},
            r"teachers\.early\.epoch is 1, which its training does not keep; set its training",
        ),
        ({"of": "strict", "epoch": 2, "weights": "best"}, "has epoch 2 and weights 'best'"),
        ({"of": "strict", "epoch": 2, "calibrated": True}, "epoch 2 and weights 'last', calibrated True"),
    ],
)
def test_an_epoch_that_cannot_be_is_refused(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny(PLAIN, teachers=PLAIN["teachers"] | {"early": entry})


def test_a_calibrated_teacher_is_cooled_everywhere_once(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """In its scores, and in what students see: one of them by hand, from the model divided by its temperature."""
    folder, result = calibrated
    _, _, temperature = stored(folder)
    assert (temperature != 1).all()
    plain, cooled = (result["teachers"][name] for name in ("strict", "cooled"))
    assert cooled["heldout"]["accuracy"] == plain["heldout"]["accuracy"]
    assert all(a < b for a, b in zip(cooled["heldout"]["nll"], plain["heldout"]["nll"], strict=True))
    stacked = folder / "teachers" / "strict" / "last.safetensors"
    model, _ = load_model(stacked, 1) if stacked.exists() else load_model(stacked.parent / "seed-3" / stacked.name)
    study = tiny(CALIBRATED)
    recipe = study.distill.model_copy(update={"seed": 3, "loss": study.losses["kd"].loss})
    for name, divisor in (("strict", 1.0), ("cooled", temperature[1].item())):
        alone = distill(recipe, teacher=lambda batch, d=divisor: model(batch["input"]).detach() / d)
        found = result["students"]["kd"][name]["heldout"]["brier"][1]
        assert alone["heldout"]["last"]["brier"] == pytest.approx(found, abs=1e-5)
    briers = [result["students"]["kd"][name]["heldout"]["brier"][1] for name in ("strict", "cooled")]
    assert abs(briers[0] - briers[1]) > 1e-3  # or the comparison above would tell nothing


def test_each_generation_learns_from_the_one_before(tmp_path: Path) -> None:
    """A member of generation 2, distilled by hand from the same member of generation 1."""
    study = parse(
        Generations,
        {
            "name": "chain", "seeds": [0, 3], "generations": 3, "teach": BASE, "distill": BASE,
            "starts": {"strict": {"objective": "cross_entropy"}, "tolerant": {"objective": "tolerant"}},
        },
    )  # fmt: skip
    run_generations(study, tmp_path, command="test")
    member = 3  # tolerant, seed 3
    recipe = study.distill.model_copy(update={"seed": 3, "generation": 2})
    ends = {}
    for before in (0, 1):
        place = tmp_path / "generation-0" / "tolerant" if before == 0 else tmp_path / "generation-1"
        model, _ = load_model(place / "last.safetensors", member=1 if before == 0 else member)
        distill(recipe, tmp_path / f"by-hand-{before}", teacher=model)
        ends[before] = weights(tmp_path / f"by-hand-{before}")
    found = member_state(weights(tmp_path / "generation-2"), member)
    assert_close(found, ends[1], 1e-5)
    assert max((found[name] - ends[0][name]).abs().max() for name in found) > 1e-2


def chain(base: dict[str, Any] = BASE, **changes: Any) -> Generations:
    raw = {"name": "chain", "seeds": [0, 3], "teach": base, "distill": base, "starts": PLAIN["teachers"]}
    return parse(Generations, raw | changes)


NO_TEST = BASE | {"split": {"train": 100, "heldout": 100, "transfer": 100}}
PARTS = ("teach", "distill", "baseline")


@pytest.mark.parametrize(
    ("run", "study", "mended"),
    [
        (run_study, tiny(**dict.fromkeys(PARTS, NO_TEST)), tiny()),
        (run_generations, chain(NO_TEST), chain(generations=1)),
    ],
    ids=["study", "generations"],
)
def test_a_study_without_a_test_part_is_refused_before_it_trains(
    run: Any, study: Any, mended: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^the data set 'digits' has no test set, .*; give split.test, such as 0.2"):
        run(study, tmp_path, command="test")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert run(mended, tmp_path, command="test")["name"] == mended.name


CLIP = BASE | {"distribution": "clip", "objective": {"name": "mse", "on": "logit"}}


@pytest.mark.parametrize(
    ("run", "study", "file"),
    [
        (run_study, tiny(teach=CLIP, teachers={"mse": {"objective": CLIP["objective"]}}), "study.json"),
        (
            run_generations,
            chain(generations=1, teach=CLIP, starts={"mse": {"objective": CLIP["objective"]}}),
            "generations.json",
        ),
    ],
    ids=["study", "generations"],
)
def test_what_a_study_returns_is_what_it_writes(run: Any, study: Any, file: str, tmp_path: Path) -> None:
    """Also where a class has probability 0 and its NLL is infinite, which JSON does not know."""
    result = run(study, tmp_path, command="test")
    assert "null" in json.dumps(result, allow_nan=False)
    assert result == read_complete(tmp_path / file) == run(study, tmp_path, command="again")


@pytest.mark.parametrize("entry", ["strict", "averaged"])
def test_averaged_weights_that_nobody_averages(entry: str) -> None:
    teachers = {"strict": {"objective": "cross_entropy"}, "averaged": {"of": "strict"}}
    teachers[entry] |= {"weights": "average"}
    with pytest.raises(InputError, match=f"^teachers.{entry}.weights is 'average', but its training averages none; "):
        tiny(teachers=teachers)
    assert tiny(teachers=teachers, teach=BASE | {"average": {"kind": "swa"}})


@pytest.mark.parametrize(
    "entry",
    [
        {"of": "strict"},
        {"objective": "cross_entropy"},
        {"of": "strict", "weights": "best"},
        {"of": "strict", "epoch": 1},
    ],
)
def test_an_entry_under_two_names_is_refused(entry: dict[str, Any]) -> None:
    teachers = {"strict": {"objective": "cross_entropy"}, "best": {"of": "strict", "weights": "best"}}
    teachers |= {"early": {"of": "strict", "epoch": 1}, "more": entry}
    kept = {"teach": BASE | {"training": BASE["training"] | {"keep": "all", "epochs": 2}}}
    with pytest.raises(
        InputError, match=r"^teachers.more is teachers.\w+ under another name; leave one of the two out"
    ):
        tiny(teachers=teachers, **kept)
    assert tiny(teachers=teachers | {"more": {"objective": "mse"}}, **kept)


@pytest.mark.parametrize("asked", [{"weights": "best"}, {"calibrated": True}, {"epoch": 1}])
def test_a_chain_starts_from_the_last_weights(asked: dict[str, Any]) -> None:
    start = {"objective": "cross_entropy"} | asked
    raw = {"seeds": [0], "teach": BASE | {"calibrate": True}, "distill": BASE, "starts": {"strict": start}}
    with pytest.raises(InputError, match=r"^starts.strict asks for weights .* leave them out"):
        parse(Generations, raw)


def test_a_study_counts_the_time_of_all_its_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("preceptor.study.folder.time.perf_counter", lambda: now)

    def say(text: str) -> None:
        nonlocal now
        now += 10.0
        if text.startswith("assess") and now < 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(), tmp_path / "out", command="test", say=say)
    assert now == 30.0  # teach, hard labels, assess
    now += 1000.0
    (tmp_path / "out" / ".time.json.preceptor-7").write_text("{")  # of a start that was killed just then
    result = run_study(tiny(), tmp_path / "out", command="test", say=say)
    assert result["time_total"] == 30.0 + 40.0
    assert not list((tmp_path / "out").glob("*time.json*"))
    assert run_study(tiny(), tmp_path / "out", command="again") == read_complete(tmp_path / "out/study.json")


def test_a_killed_study_remembers_the_stages_that_were_done(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    clock._started -= 25.0
    clock.noting(lambda _: None)("a stage is done")
    assert Clock(tmp_path).time_total >= 25.0


def test_a_study_folder_that_somebody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    with files.locked(tmp_path), pytest.raises(InputError, match="another process is at work"):
        run_study(tiny(), tmp_path, command="test")
    assert not (tmp_path / "study.yaml").exists()


def deadly(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """An objective that kills the worker that computes it."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return logits.sum(-1)


def test_a_worker_that_dies_is_one_sentence(tmp_path: Path) -> None:
    teachers = {"strict": {"objective": f"{__name__}:deadly"}}
    with pytest.raises(InputError, match="a process that worked for the study has died, for want of memory"):
        run_study(tiny(teachers=teachers, stack_teachers=False, workers=2), tmp_path, command="test")


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a group is a POSIX affair")
def test_ctrl_c_of_a_study_with_workers_can_be_resumed(tmp_path: Path) -> None:
    """Ctrl-C reaches the command and its workers, as a terminal sends it; the same study goes on to the same end.

    Its teachers, begun by several workers and ended by one process, are those that one process trains.
    """
    long = BASE | {"training": BASE["training"] | {"epochs": 36, "checkpoint_epochs": 18}}
    study = tiny(teach=long, stack_teachers=False, workers=3)  # of which one is idle
    (tmp_path / "study.yaml").write_text(dump(study))
    command = [sys.executable, "-m", "preceptor", "study", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    places = [tmp_path / "out" / "teachers" / "strict" / f"seed-{seed}" for seed in study.seeds]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not all((place / "metrics.jsonl").exists() for place in places) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    for place in places:
        assert (place / "result.json").exists() or list((place / "checkpoints").iterdir())
    assert not all((place / "result.json").exists() for place in places)
    assert not list(tmp_path.rglob(".*.preceptor-*"))
    result = run_study(study.model_copy(update={"workers": 1}), tmp_path / "out", command="test")
    for position, (seed, place) in enumerate(zip(study.seeds, places, strict=True)):
        alone = teach(study.teach_recipe("strict").model_copy(update={"seed": seed}), tmp_path / str(seed))
        assert snapshot(place) == snapshot(tmp_path / str(seed))
        assert result["teachers"]["strict"]["heldout"]["nll"][position] == alone["heldout"]["last"]["nll"]
