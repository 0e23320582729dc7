"""`preceptor record` and a student of its record: stopped and gone on with, in ensembles, assessed, in any loop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.losses import kd
from preceptor.records import Record
from preceptor.records.info import describe
from preceptor.records.samples import trained_on
from preceptor.records.teacher import RecordTeacher
from preceptor.runs import read_splits
from preceptor.study.teachers import assess_teachers, read_candidates
from preceptor.tasks import DistillTask, Lookup
from preceptor.training import recording
from preceptor.training.resolve import distill_job
from training.toys import distill_recipe, teach_recipe

AUGMENTED = ("augmentation={name: crop_flip, padding: 1}", "mixing=mixup")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(outcome: Result) -> str:
    assert outcome.exit_code == 2, outcome.output
    return outcome.stderr.strip().splitlines()[-1]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a record, by its path within it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one split, one of which has learned augmented and mixed samples."""
    folder = tmp_path_factory.mktemp("runs")
    preceptor.teach(teach_recipe(*AUGMENTED, "training.epochs=3"), folder / "a")
    preceptor.teach(teach_recipe("streams.initialization=3"), folder / "b")
    return folder


@pytest.fixture(scope="module")
def record(teachers: Path) -> Path:
    assert run("record", teachers / "a", "--out", teachers / "r", "--views", 2).exit_code == 0
    return teachers / "r"


# -- recorded ----------------------------------------------------------------------------------------------------------


def test_by_default_the_teacher_s_own_run_says_what_is_asked(record: Path, teachers: Path) -> None:
    found, parts = Record(record), read_splits(teachers / "a")
    manifest = found.manifest
    assert torch.equal(found.ids, parts["train"])
    assert manifest.augmentation == {"name": "crop_flip", "padding": 1}
    assert (manifest.mixing, manifest.views, manifest.num_samples) == ({"name": "mixup"}, 2, 150)
    digest = json.loads((teachers / "a" / "result.json").read_text())["files"]["last.safetensors"]["sha256"]
    assert manifest.identity.teacher == {"a": f"sha256:{digest}"}
    assert torch.equal(Record(record / "heldout").ids, parts["heldout"])
    assert torch.equal(trained_on(record), parts["train"])  # type: ignore[arg-type]
    # As a student is scored by: the samples as they are, and their labels.
    held = Record(record / "heldout").scalars(parts["heldout"])
    live = preceptor.load(teachers / "a")(_inputs(parts["heldout"])).log_softmax(-1)
    torch.testing.assert_close(Record(record / "heldout").log_probs(parts["heldout"]), live, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        held.label_log_probs, live.gather(1, held.labels[:, None])[:, 0].detach(), atol=1e-6, rtol=0
    )
    right = (live.argmax(1) == held.labels).double().mean().item()
    assert describe(record)["held-out scores"]["accuracy"] == pytest.approx(right, abs=1e-4)


def _inputs(index: Tensor) -> Tensor:
    from preceptor.data import digits

    return digits().train.fetch(index)[0]  # type: ignore[attr-defined]


def test_the_recipe_and_its_keys_say_otherwise(teachers: Path, tmp_path: Path) -> None:
    done = run(
        "record", teachers / "b", "augmentation=crop_flip", "--out", tmp_path / "r", "--dtype", "float16", "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["samples"], told["views"], told["form"], told["classes"]) == (150, 1, "dense", 10)
    manifest = Record(tmp_path / "r").manifest
    assert manifest.augmentation == {"name": "crop_flip"}
    assert manifest.form.dtype == "float16"
    (tmp_path / "r.yaml").write_text("data: digits\nsplit: {train: 40, heldout: 20, test: rest}\nseed: 0\n")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = preceptor.record(net, tmp_path / "own", recipe=tmp_path / "r.yaml", heldout=False, device="cpu")
    assert len(found) == 40
    assert not (tmp_path / "own" / "heldout").exists()


@pytest.mark.parametrize(("at", "left"), [(1, 11), (3, 9), (8, 5), (11, 1)])
def test_a_recording_that_was_stopped_goes_on_to_the_same_bytes(
    at: int, left: int, teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_BATCH", 32)
    monkeypatch.setattr(recording, "_SHARD_BYTES", 32 * 10 * 4)
    command = ("record", teachers / "a", "--views", 2, "--out")
    assert run(*command, tmp_path / "whole").exit_code == 0
    ask, calls = recording.log_probs_of, []

    def stopping(said: Tensor) -> Tensor:
        calls.append(len(said))
        if len(calls) > at:
            raise KeyboardInterrupt
        return ask(said)

    with monkeypatch.context() as patched:
        patched.setattr(recording, "log_probs_of", stopping)
        stopped = run(*command, tmp_path / "r")
    assert stopped.exit_code == 130
    asked = []
    monkeypatch.setattr(recording, "log_probs_of", lambda said: asked.append(len(said)) or ask(said))
    assert run(*command, tmp_path / "r").exit_code == 0
    # Five batches a view and two of held-out samples; of the first view's last, which fills no shard, nothing was kept.
    assert len(asked) == left
    assert content(tmp_path / "r") == content(tmp_path / "whole")
    asked.clear()
    assert run(*command, tmp_path / "r").exit_code == 0
    assert asked == []


def test_what_cannot_be_recorded(record: Path, teachers: Path, tmp_path: Path) -> None:
    a = teachers / "a"
    assert "give --out DIR" in said(run("record", a))
    assert "another: 'views' is 2 in the one and 3 in the other" in said(run("record", a, "-o", record, "--views", 3))
    assert "'identity.teacher.a' is" in said(run("record", teachers / "b", *AUGMENTED, "-o", record, "--views", 2))
    assert "are stored already; record a live teacher" in said(run("record", record, "-o", tmp_path / "x"))
    assert "did you mean 'sampled'" in said(run("record", a, "-o", tmp_path / "x", "--form", "sample", "-k", 3))
    assert "give k" in said(run("record", a, "-o", tmp_path / "x", "--form", "top_k"))
    assert "leave k out" in said(run("record", a, "-o", tmp_path / "x", "-k", 3))
    assert "did you mean 'float16'" in said(run("record", a, "-o", tmp_path / "x", "--dtype", "fload16"))
    assert "views is 0" in said(run("record", a, "-o", tmp_path / "x", "--views", 0))
    assert "give --views" in said(run("record", a, "views=2", "-o", tmp_path / "x"))
    assert "was trained on" in said(run("record", a, "seed=1", "-o", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


# -- learned from ------------------------------------------------------------------------------------------------------


def student(teacher: Any, folder: Path, *overrides: str) -> dict[str, Any]:
    return preceptor.distill(distill_recipe(*overrides), folder, teacher=teacher)


def test_on_the_command_line_and_gone_on_with(record: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "s.yaml"
    recipe.write_text("data: digits\nmodel: {name: mlp, hidden: [12]}\nsplit: {train: 150, heldout: 50, test: 100}\n")
    command = ["distill", recipe, *AUGMENTED, "training.epochs=2", "training.device=cpu", "--out", tmp_path / "s"]
    done = run(*command, "--teacher", record, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["record"] == [{"folder": str(record), "form": "dense", "views": 2, "samples": 150}]
    assert result["teacher"]["samples"] == 50
    assert json.loads(run(*command, "--teacher", record, "--json").stdout) == result
    assert "'augmentation.padding' is 1 in the record and 2" in said(
        run(*command[:-1], tmp_path / "x", "augmentation.padding=2", "--teacher", record)
    )
    assert "leave ':best' out" in said(run(*command[:-1], tmp_path / "x", "--teacher", f"{record}:best"))


def test_another_record_under_the_name_is_another_teacher(teachers: Path, tmp_path: Path) -> None:
    preceptor.record(teachers / "b", tmp_path / "r")
    student(tmp_path / "r", tmp_path / "s")
    (tmp_path / "r").rename(tmp_path / "old")
    preceptor.record(teachers / "b", tmp_path / "r", dtype="float16")
    with pytest.raises(InputError, match="another teacher under the name"):
        student(tmp_path / "r", tmp_path / "s")


def test_without_augmentation_it_is_read_once_into_a_table(teachers: Path, tmp_path: Path) -> None:
    preceptor.record(teachers / "b", tmp_path / "r")
    student(RecordTeacher(tmp_path / "r"), tmp_path / "s")
    student(teachers / "b", tmp_path / "live")
    job = distill_job(distill_recipe(f"teacher={tmp_path / 'r'}"), None)
    job.prepare()
    assert isinstance(job.task.teacher, Lookup)  # type: ignore[attr-defined]
    one, other = (preceptor.load(tmp_path / name).state_dict() for name in ("s", "live"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-5)


def test_in_an_ensemble_with_a_live_teacher(record: Path, teachers: Path, tmp_path: Path) -> None:
    both = student(f"{record}+{teachers / 'b'}", tmp_path / "s", *AUGMENTED)
    assert len(both["teacher"]["teachers"]) == 2
    live = student(f"{teachers / 'a'}+{teachers / 'b'}", tmp_path / "live", *AUGMENTED)
    assert both["teacher"]["brier"] == pytest.approx(live["teacher"]["brier"], abs=1e-6)
    one, other = (preceptor.load(tmp_path / name).state_dict() for name in ("s", "live"))
    for name, tensor in one.items():  # the two epochs of the live run are the two views
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=1e-4)
    preceptor.record(teachers / "b", tmp_path / "r", augmentation={"name": "crop_flip", "padding": 1}, mixing="mixup")
    with pytest.raises(InputError, match="were made with unlike draws, views or samples"):
        student(f"{record}+{tmp_path / 'r'}", tmp_path / "x", *AUGMENTED)


@pytest.mark.parametrize(("form", "k"), [("top_k", 5), ("sampled", 6)])
def test_of_some_classes(form: str, k: int, teachers: Path, tmp_path: Path) -> None:
    preceptor.record(teachers / "a", tmp_path / "r", form=form, k=k, views=2)
    result = student(tmp_path / "r", tmp_path / "s", *AUGMENTED, "loss={name: kd, temperature: 4}")
    live = student(teachers / "a", tmp_path / "live", *AUGMENTED, "loss={name: kd, temperature: 4}")
    assert result["record"][0]["form"] == form
    for name in ("accuracy", "brier", "nll", "entropy"):  # from the numbers that every form has beside it
        assert result["teacher"][name] == pytest.approx(live["teacher"][name], abs=1e-5)
    assert result["heldout"]["last"]["brier"] == pytest.approx(live["heldout"]["last"]["brier"], abs=0.1)
    refused = {
        "loss=dist": "'dist'",
        "loss={name: kd, temperature: 3}": "4",
        f"loss={__name__}:squared": "the loss .*squared.* needs the teacher's outputs for all classes",
    }
    for loss, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            student(tmp_path / "r", tmp_path / "x", *AUGMENTED, loss)
    assert not (tmp_path / "x").exists()


def squared(student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """A loss of somebody's own."""
    values = (student_logits - teacher_logits).square().mean(-1)
    return values if mask is None else values.masked_fill(~mask, 0)


def test_chosen_among_others(record: Path, teachers: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "s.yaml"
    recipe.write_text("data: digits\nmodel: {name: mlp, hidden: [12]}\nsplit: {train: 150, heldout: 50, test: 100}\n")
    options = ["training.epochs=1", "training.device=cpu", "--out", tmp_path / "s", "--json"]
    done = run("distill", recipe, *AUGMENTED, "--teacher", "auto", record, teachers / "b", *options)
    assert done.exit_code == 0, done.output
    assert "choice" in json.loads(done.stdout)


def test_side_by_side(record: Path, tmp_path: Path) -> None:
    students = {"kd": {"loss": "kd"}, "wttm": {"loss": "wttm"}}
    together = preceptor.distill_together(distill_recipe(*AUGMENTED), students, tmp_path / "t", teacher=record)
    alone = student(record, tmp_path / "s", *AUGMENTED, "loss=wttm")
    assert together["wttm"]["heldout"] == alone["heldout"]


def test_a_student_is_not_scored_on_what_the_recorded_teacher_has_learned(teachers: Path, tmp_path: Path) -> None:
    preceptor.record(teachers / "b", tmp_path / "r")
    with pytest.raises(InputError, match=r"was trained on .* of the student's heldout samples"):
        student(tmp_path / "r", tmp_path / "s", "seed=1")


def test_an_unfinished_record_says_so(teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_BATCH", 32)
    monkeypatch.setattr(recording, "_SHARD_BYTES", 32 * 10 * 4)
    preceptor.record(teachers / "b", tmp_path / "r")
    index = tmp_path / "r" / "writer-0" / "shards.json"
    from preceptor.records.shards import read_index, write_index

    write_index(index.parent, read_index(index.parent)[:-1])
    with pytest.raises(InputError, match="is not complete: view 0 has 128 of 150 samples; run"):
        student(tmp_path / "r", tmp_path / "s")


# -- assessed, and in another loop -------------------------------------------------------------------------------------


def test_assessed_by_its_heldout_rows(record: Path, teachers: Path, tmp_path: Path) -> None:
    [live], [stored] = read_candidates([teachers / "a"]), read_candidates([record])
    assert (stored.ids == live.ids).all()
    assert (stored.labels == live.labels).all()
    assert stored.trained_on is not None
    torch.testing.assert_close(torch.tensor(stored.logits), torch.tensor(live.logits), atol=1e-5, rtol=0)
    ranking = assess_teachers([str(record), str(teachers / "b")])
    assert len(ranking[0].ranking) == 2
    preceptor.record(teachers / "a", tmp_path / "some", form="sampled", k=3)  # of these samples all classes are there
    [some] = read_candidates([tmp_path / "some"])
    torch.testing.assert_close(torch.tensor(some.logits), torch.tensor(live.logits), atol=2e-2, rtol=0)
    preceptor.record(teachers / "b", tmp_path / "r", heldout=False)
    assert "has no held-out samples" in said(run("assess", tmp_path / "r"))


def test_in_a_loop_of_one_s_own(record: Path) -> None:
    found = Record(record)
    net = nn.Linear(4, 10)
    task = DistillTask(net, RecordTeacher(record), kd, ce_weight=0.0, distill_weight=1.0)
    index = found.ids[[5, 2, 9]]
    batch = {"input": torch.randn(3, 4), "label": torch.zeros(3, dtype=torch.int64), "index": index}
    for view in (0, 1):
        loss = task({**batch, "view": torch.full((3,), view)})["loss"]
        wanted = kd(net(batch["input"]), found.log_probs(index, view)).mean()
        assert torch.equal(loss, wanted)
    ids = torch.full((20,), -1)
    ids[7] = index[0]
    mine = RecordTeacher(record, ids=ids, temperature=2.0)({"index": torch.tensor([7]), "view": torch.tensor([1])})
    torch.testing.assert_close(mine, found.log_probs(index[:1], 1) / 2)
    with pytest.raises(InputError, match="is for a loop of your own; give the folder of its record"):
        student(RecordTeacher(record, temperature=2.0), record.parent / "x")
    with pytest.raises(InputError, match="is not in view 0"):
        RecordTeacher(record)({"index": torch.tensor([int(read_splits(record.parent / "a")["test"][0])])})
