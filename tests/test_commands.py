"""The command line: every verb on digits, and one clear sentence for what a user can get wrong."""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, load
from preceptor.study.recipe import Study

QUICK = ["training.epochs=2"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def refused(*arguments: object) -> str:
    """The sentence of a command that must fail: exit code 2, one line, no traceback."""
    outcome = run(*arguments)
    assert outcome.exit_code == 2, outcome.output
    line = outcome.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in outcome.stderr
    return line


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    assert run("teach", "teach-digits", *QUICK, "--out", folder).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def other(teacher: Path) -> Path:
    folder = teacher.parent / "other"
    assert run("teach", "teach-digits", *QUICK, "objective=mse", "training.clip_norm=1", "-o", folder).exit_code == 0
    return folder


def test_teach_assess_distill(teacher: Path, other: Path, tmp_path: Path) -> None:
    student = run("distill", "distill-digits", *QUICK, "--teacher", teacher, "--out", tmp_path / "s", "--json")
    assert student.exit_code == 0
    assert json.loads(student.stdout)["verb"] == "distill"
    ranking = run("assess", teacher, f"{teacher}:best", other, "--json")
    assert len(json.loads(ranking.stdout)["rankings"][0]["ranking"]) == 3
    assert "rank" in run("assess", teacher, other).stdout


def test_a_complete_run_is_returned_as_it_is(teacher: Path) -> None:
    before = (teacher / "last.safetensors").stat().st_mtime_ns
    assert run("teach", "teach-digits", *QUICK, "--out", teacher).exit_code == 0
    assert (teacher / "last.safetensors").stat().st_mtime_ns == before


def test_dry_run_prints_a_recipe_that_runs(tmp_path: Path) -> None:
    printed = run("teach", "teach-digits", "optimizer.lr=1e-3", "--dry-run")
    path = tmp_path / "again.yaml"
    path.write_text(printed.stdout)
    assert run("teach", path, "--dry-run").stdout == printed.stdout
    assert "lr: 0.001" in printed.stdout


def test_generations_and_report(tmp_path: Path) -> None:
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(
        """
name: chain
seeds: [0, 1]
generations: 3
teach: &common
  data: digits
  split: {train: 300, heldout: 200, test: rest}
  model: {name: mlp, hidden: [16]}
  training: {epochs: 2, batch_size: 64, device: cpu}
distill: {<<: *common, loss: {name: kd, temperature: 1.0}, ce_weight: 0.5, distill_weight: 0.5}
starts: {strict: {objective: cross_entropy}, tolerant: {objective: tolerant}}
"""
    )
    out = tmp_path / "out"
    result = json.loads(run("generations", recipe, "--out", out, "--json").stdout)
    assert [link["generation"] for link in result["chains"]["tolerant"]] == [0, 1, 2]
    first = result["chains"]["strict"][0]
    assert first["ensemble"]["brier"] == pytest.approx(first["test"]["brier"], abs=1e-6)
    markdown = run("report", out, "--markdown").stdout
    assert sum(line.startswith("| ") for line in markdown.splitlines()) == 1 + 2 * 3
    assert "strict" in run("report", out).stdout
    assert "generations have no pictures; leave --picture out" in refused("report", out, "--picture", "a.png")
    (out / "generations.json").write_text('{"schema_version": 99}')
    for flags in ([], ["--markdown"]):
        assert "the study has format 99, newer than this Preceptor's 1; upgrade" in refused("report", out, *flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["teach", "teach-digit"], "did you mean 'teach-digits'"),
        (["teach", "nowhere.yaml"], "nowhere.yaml"),
        (["teach", "teach-digits", "optimzer.lr=1"], "did you mean 'optimizer'"),
        (["teach", "teach-digits", "optimizer.lrr=1"], "did you mean 'lr'"),
        (["teach", "teach-digits", "optimizer.lr=-1"], "greater than 0"),
        (["teach", "teach-digits", "optimizer.lr"], "key.key=value"),
        (["teach", "teach-digits", "objective=msee"], "did you mean 'mse'"),
        (["teach", "teach-digits", "objective=mse", "objective.reductoin=sum"], "did you mean 'reduction'"),
        (["teach", "teach-digits", "objective=tolerant", "objective.k=1"], "k"),
        (["teach", "teach-digits", "objective=tolerant", "objective.k=11"], "11"),
        (["teach", "teach-digits", "distribution=clip", "calibrate=true"], "calibrate"),
        (["teach", "teach-digits", "model=mpl"], "did you mean 'mlp'"),
        (["teach", "teach-digits", "data=digit"], "did you mean 'digits'"),
        (["teach", "teach-digits", "data=no.such:thing"], "no.such:thing"),
        (["teach", "teach-digits", "split.train=2000"], "2"),
        (["teach", "teach-digits", "training.precision=fp16"], "fp16"),
        (["teach", "teach-digits", "augmentation={name: crop_flip, flip: no}"], "'augmentation.flip' is 'no'"),
        (["teach", "teach-digits", "--select", "teaching", "training.keep=last"], "training.keep=last"),
        (["teach", "teach-digits", "--select", "teaching", "training.epochs=1"], "training.epochs=1"),
        (["teach", "teach-digits", "--select", "teaching", "training.checkpoint_epochs=1000"], "would keep 1"),
        (["distill", "distill-digits"], "teacher"),
        (["distill", "distill-digits", "teacher=nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["assess", "nowhere"], "nowhere"),
        (["quickstart", "--resume", "nowhere"], "nowhere"),
    ],
)
def test_refused(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert not any(tmp_path.iterdir()), "a refused command must leave nothing behind"


def test_a_teacher_with_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shop = importlib.import_module("shop")
    preceptor.teach("teach-digits", "t", model=shop.net, epochs=2, keep="all")
    student = ["distill", "distill-digits", *QUICK, "--teacher", "t", "--out", "s"]
    assert refused(*student).endswith("(on the command line: --model shop:net or --allow-code)")
    assert "there is no model called 'shop'" in refused(*student, "--model", "shop")
    assert run(*student, "--model", "shop:net").exit_code == 0
    unseen = json.loads(run("assess", "t", "--json").stdout)
    assert "No score of t where students learn" in unseen["notes"][0]
    assert refused("assess", "t", "--transfer").endswith("(on the command line: --model shop:net or --allow-code)")
    seen = json.loads(run("assess", "t", "--model", "shop:net", "--json").stdout)
    assert seen["rankings"][0]["teachers"][0]["students_see"].keys() >= {"train"}
    epochs = ["assess", "t:epochs"]
    assert refused(*epochs).endswith("(on the command line: --model shop:net or --allow-code)")
    assert run(*epochs, "--model", "shop:net").exit_code == 0
    auto = ["distill", "distill-digits", *QUICK, "--teacher", "auto", "t", "--model", "shop:net", "--out", "chosen"]
    assert run(*auto).exit_code == 0


@pytest.mark.parametrize("loss", ["kd", "ttm", "wttm"])
def test_temperature_must_be_positive(loss: str, teacher: Path, tmp_path: Path) -> None:
    options = [f"loss={loss}", "loss.temperature=0"]
    assert "temperature" in refused("distill", "distill-digits", *options, "--teacher", teacher, "-o", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_with_another_recipe(teacher: Path) -> None:
    assert "training.epochs is 2 there and 3 here" in refused(
        "teach", "teach-digits", "training.epochs=3", "--out", teacher
    )


def test_quickstart_starts_afresh_unless_told_to_resume(tmp_path: Path) -> None:
    assert f"--resume {tmp_path}" in refused("quickstart", "--out", tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    refused("teach", "teach-digits", "--out", tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_data_dir_reaches_the_loader(tmp_path: Path) -> None:
    line = refused("teach", "teach-cifar100", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert str(tmp_path) in line
    assert "cifar-100" in line


@pytest.mark.parametrize("name", ["0711", "my data #1", "2024", "no", "[a, b]", "1e3"])
def test_paths_are_taken_as_they_are_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(run("distill", "distill-digits", "--teacher", name, "--data-dir", name, "--dry-run").stdout)
    student = load(DistillRecipe, path)
    assert (str(student.teacher[0].run), student.data.options) == (name, {"data_dir": name})
    path.write_text(run("study", "fashion-mnist", "--data-dir", name, "--dry-run").stdout)
    study = load(Study, path)
    assert [study.teach.data.options["data_dir"], study.distill.data.options["data_dir"]] == [name, name]


def test_assess_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 50)
    good = rng.normal(size=(50, 3))
    good[np.arange(50), labels] += 2
    np.savez(tmp_path / "good.npz", logits=good, labels=labels)
    np.save(tmp_path / "bad.npy", rng.normal(size=(50, 3)))
    comparison = json.loads(run("assess", tmp_path / "good.npz", tmp_path / "bad.npy", "--json").stdout)
    assert comparison["rankings"][0]["ranking"] == ["good", "bad"]
    assert "labels" in refused("assess", tmp_path / "bad.npy")
    np.savez(tmp_path / "empty.npz", nothing=labels)
    assert "logits" in refused("assess", tmp_path / "empty.npz")
    np.save(tmp_path / "short.npy", good[:40])
    assert "40" in refused("assess", tmp_path / "good.npz", tmp_path / "short.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    assert "objects" in refused("assess", tmp_path / "objects.npy")
    probabilities = np.exp(good) / np.exp(good).sum(1, keepdims=True)
    np.savez(tmp_path / "probabilities.npz", logits=probabilities, labels=labels)
    assert "probabilities" in refused("assess", tmp_path / "probabilities.npz")
    assert run("assess", tmp_path / "probabilities.npz", "--probabilities").exit_code == 0
    assert "twice" in refused("assess", tmp_path / "good.npz", tmp_path / "good.npz")
    np.savez(tmp_path / "shuffled.npz", logits=good[::-1], labels=labels[::-1])
    assert "labels of teacher 'shuffled'" in refused("assess", tmp_path / "good.npz", tmp_path / "shuffled.npz")


def test_assess_for_several_losses_with_a_page(teacher: Path, other: Path, tmp_path: Path) -> None:
    options = ["--loss", "kd", "--loss", "wttm", "--temperature", 2, "--loss", "ptloss", "--coefficients", "0.2,0.1"]
    page = tmp_path / "out" / "page.html"
    outcome = run("assess", teacher, f"{teacher}:best+{other}", *options, "--page", page, "--json")
    content = json.loads(outcome.stdout)
    assert [ranking["loss"] for ranking in content["rankings"]] == ["kd", "wttm", "ptloss"]
    assert sorted(len(references) for references in content["candidates"].values()) == [1, 2]
    first = content["rankings"][0]["teachers"][0]
    assert first["students_see"].keys() == {"train", "transfer"}
    assert "were selected on these held-out samples" in content["notes"][0]
    assert f"page: {page}" in outcome.stderr
    assert "preceptor" in page.read_text(encoding="utf-8")
    plain = run("assess", teacher, other, "--no-transfer")
    assert "training" not in plain.output
    shown = run("assess", teacher, other)
    assert "The held-out score is the one that predicts students" in shown.stderr
    assert "too good" in shown.stdout


def test_assess_with_a_known_truth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(3), 60)
    labels = (truth.cumsum(1) > rng.random((60, 1))).argmax(1)
    np.savez(tmp_path / "truth.npz", labels=labels, truth=truth)
    np.save(tmp_path / "truth.npy", truth)
    np.savez(tmp_path / "oracle.npz", logits=np.log(truth), labels=labels)
    np.savez(tmp_path / "knowing.npz", logits=np.log(truth), labels=labels, truth=truth)
    np.save(tmp_path / "flat.npy", np.zeros((60, 3)))
    files = [tmp_path / "flat.npy", tmp_path / "oracle.npz", "--json"]
    one = json.loads(run("assess", *files, "--data", tmp_path / "truth.npz").stdout)["rankings"]
    assert one == json.loads(run("assess", *files, "--truth", tmp_path / "truth.npy").stdout)["rankings"]
    files[1] = tmp_path / "knowing.npz"
    own = json.loads(run("assess", *files).stdout)["rankings"]
    for rankings, name in ((one, "oracle"), (own, "knowing")):
        first, second = rankings[0]["teachers"]
        assert first["name"] == name
        assert rankings[0]["criterion"] == "distance"
        assert first["scores"]["distance"]["value"] == pytest.approx(0, abs=1e-12)
        assert second["scores"]["distance"]["value"] == pytest.approx(((truth - 1 / 3) ** 2).sum(1).mean())
    np.save(tmp_path / "counts.npy", np.ones((60, 3), dtype=int))
    both = ("--truth", tmp_path / "truth.npy", "--counts", tmp_path / "counts.npy")
    assert "counts and truth are both given" in refused("assess", *files, *both)


def test_assess_with_counts_and_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    counts = np.eye(3, dtype=int)[labels] * 3 + 1
    good = 2 * np.eye(3)[labels] + rng.normal(size=(60, 3))
    np.savez(tmp_path / "good.npz", logits=good, ids=np.arange(60))
    np.save(tmp_path / "bad.npy", rng.normal(size=(60, 3)))
    np.save(tmp_path / "counts.npy", counts)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "truth.npz", labels=labels, counts=counts, ids=np.arange(60))
    files = [tmp_path / "good.npz", tmp_path / "bad.npy", "--json"]
    one = json.loads(run("assess", *files, "--data", tmp_path / "truth.npz").stdout)
    other = json.loads(
        run("assess", *files, "--labels", tmp_path / "labels.npy", "--counts", tmp_path / "counts.npy").stdout
    )
    assert one == other
    assert one["rankings"][0]["criterion"] == "distance"
    assert "'bad' could not be checked" in one["notes"][0]
    np.savez(tmp_path / "turned.npz", labels=labels, ids=np.arange(60)[::-1])
    assert "bring all teachers into one order" in refused("assess", *files, "--data", tmp_path / "turned.npz")
    np.save(tmp_path / "wrong.npy", labels + 1)
    assert "as there are 3 classes" in refused("assess", tmp_path / "bad.npy", "--labels", tmp_path / "wrong.npy")
    assert "cannot be read" in refused("assess", tmp_path / "bad.npy", "--labels", tmp_path / "nowhere.npy")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss", "wttm"], "(on the command line: --temperature)"),
        (["--loss", "wtm"], "did you mean 'wttm'"),
        (["--loss", "ptloss"], "coefficients"),
        (["--coefficients", "0.1"], "takes no coefficients, only ptloss"),
        (["--loss", "ptloss", "--coefficients", "a,b"], "numbers with commas"),
        (["--level", "95"], "level is 95"),
    ],
)
def test_assess_options_that_do_not_suit(options: list[str], said: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", logits=rng.normal(size=(20, 3)), labels=rng.integers(0, 3, 20))
    assert said in refused("assess", tmp_path / "x.npz", *options)


def test_assess_refuses_a_teacher_that_saw_the_held_out_samples(teacher: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    assert run("teach", "teach-digits", *QUICK, "seed=1", "--out", seen).exit_code == 0
    assert "trained on" in refused("assess", teacher, seen)


def test_other_spellings_of_the_data_hide_no_leak(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, labels in (("mixed", rng.integers(0, 2, 200)), ("sorted", np.arange(200) // 100)):
        np.savez(tmp_path / f"{name}.npz", inputs=rng.normal(size=(200, 3)).astype("f4"), labels=labels)
    (tmp_path / "copy.npz").write_bytes((tmp_path / "mixed.npz").read_bytes())
    small = ["model=mlp", "augmentation=null", "split={heldout: 40}", "training.epochs=1"]

    def of(name: str) -> str:
        return f"data={{name: npz, path: {tmp_path / name}.npz}}"

    assert run("teach", "teach-digits", *small, of("mixed"), "--out", tmp_path / "t").exit_code == 0
    student = ["distill", "distill-digits", *small, "seed=1", "--teacher", tmp_path / "t"]
    assert "was trained on" in refused(*student, of("mixed"), "--out", tmp_path / "s")
    assert "was trained on" in refused(*student, of("copy"), "--out", tmp_path / "s")
    assert run(*student, of("sorted"), "--out", tmp_path / "s").exit_code == 0


def test_a_wide_table_loses_no_number(teacher: Path, tmp_path: Path) -> None:
    printed = run("assess", teacher, f"{teacher}:best", "--loss", "ttm", "--temperature", "4").stdout
    assert "…" not in printed
    columns = next(line for line in printed.splitlines() if "rank" in line)
    assert columns.rstrip().endswith("┃")
    assert all(line.rstrip()[-1] in "│┃┓┩┘" for line in printed.splitlines() if line[:1] in "│┃┏┡└")


def test_distill_refuses_a_teacher_that_saw_the_test_samples(teacher: Path, tmp_path: Path) -> None:
    line = refused("distill", "distill-digits", *QUICK, "--teacher", teacher, "seed=1", "--out", tmp_path / "s")
    assert "was trained on" in line
    assert not (tmp_path / "s").exists()


def test_a_study_folder_that_holds_another_study(tmp_path: Path) -> None:
    few = ["seeds=[0]", "teach.training.epochs=10", "distill.training.epochs=1", "baseline.training.epochs=1"]
    out = tmp_path / "q"
    assert run("quickstart", *few, "--out", out).exit_code == 0
    line = refused("quickstart", *few, "losses.kd.ce_weight=0.3", "--resume", out)
    assert line.endswith("holds another study (see its study.yaml); give another folder (on the command line: --out)")


def test_an_error_names_the_flag_of_its_argument_where_the_verb_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(argument: str | None) -> str:
        def refuse(*arguments: object, **options: object) -> None:
            raise InputError("so", argument=argument)

        monkeypatch.setattr("preceptor.study.teachers.assess_teachers", refuse)
        return refused("assess", "nowhere")

    for argument in ("losses", "loss"):
        assert sentence(argument) == "error: so (on the command line: --loss)"
    assert sentence("data_dir") == "error: so (on the command line: --data-dir)"
    for argument in ("folder", "candidates", "data", None):
        assert sentence(argument) == "error: so"


def test_an_error_keeps_its_argument_on_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(InputError("so", argument="folder")))
    assert (str(error), error.argument) == ("so", "folder")


def test_a_study_whose_teachers_see_other_samples_than_its_students() -> None:
    assert "must share one split" in refused("quickstart", "teach.split.train=200")


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom preceptor.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'scipy', 'matplotlib', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recipes_are_free_of_torch() -> None:
    code = "import sys, preceptor.recipe, preceptor.study.recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a child is a POSIX affair")
def test_students_of_a_file_are_distilled_side_by_side(teacher: Path, tmp_path: Path) -> None:
    company = tmp_path / "students.yaml"
    company.write_text("kd: {loss: kd}\nwttm: {loss: {name: wttm, temperature: 2.0}, training: {epochs: 1}}\n")
    command = ["distill-together", "distill-digits", company, *QUICK, "--teacher", teacher, "--out", tmp_path / "c"]
    results = json.loads(run(*command, "--json").stdout)
    assert list(results) == ["kd", "wttm"]
    alone = run("distill", "distill-digits", *QUICK, "loss=kd", "--teacher", teacher, "--out", tmp_path / "s", "--json")
    assert json.loads(alone.stdout)["heldout"] == results["kd"]["heldout"]
    shown = run(*command).stdout
    assert "c/kd" in shown
    assert "c/wttm" in shown
    company.write_text("kd: {los: kd}\n")
    assert "did you mean 'loss'" in refused(*command)
    assert "cannot read" in refused("distill-together", "distill-digits", tmp_path / "none.yaml")
    assert "auto chooses for one student" in refused(*command[:3], "--teacher", "auto")


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "preceptor", "teach", "teach-digits", "training.epochs=120", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert not (out / "result.json").exists()
    assert list((out / "checkpoints").iterdir())
    epochs = len((out / "metrics.jsonl").read_text().splitlines())
    assert run("teach", "teach-digits", "training.epochs=120", "--out", out).exit_code == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 120 > epochs


@pytest.mark.parametrize("verb", ["assess", "report"])
def test_ctrl_c_promises_nothing_where_nothing_is_saved(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "study.json").write_text("{}")
    monkeypatch.setattr("preceptor.study.teachers.assess_teachers", interrupted)
    monkeypatch.setattr("preceptor.runs.files.read_json", interrupted)
    outcome = run(verb, tmp_path)
    assert outcome.exit_code == 130
    assert outcome.stderr.strip() == "stopped"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["teach"], "missing argument 'RECIPE'; preceptor teach --help says"),
        (["distill"], "missing argument 'RECIPE'; preceptor distill --help says"),
        (["assess"], "missing argument 'RUN_OR_FILE...'; preceptor assess --help says"),
        (["study"], "missing argument 'RECIPE'"),
        (["generations"], "missing argument 'RECIPE'"),
        (["report"], "missing argument 'folder'"),
        (["verify"], "missing argument 'folder'"),
        (["nonsense"], "no such command 'nonsense'; preceptor --help says"),
        (["asses", "a"], "no such command 'asses'. Did you mean 'assess'?"),
        (["--nonsense"], "no such option: --nonsense; preceptor --help says"),
        (["assess", "--nonsense"], "no such option: --nonsense"),
        (["assess", "a", "--criterion"], "requires an argument; preceptor assess --help says"),
        (["assess", "a", "--level", "x"], "invalid value for '--level'"),
        (["report", "a", "b"], "unexpected extra argument"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(arguments: list[str], expected: str) -> None:
    assert len(run(*arguments).stderr.strip().splitlines()) == 1
    assert expected in refused(*arguments)


def test_without_a_verb_it_says_what_there_is() -> None:
    outcome = run()
    assert outcome.exit_code == 2
    assert all(verb in outcome.stdout for verb in ("teach", "assess", "distill", "verify"))
