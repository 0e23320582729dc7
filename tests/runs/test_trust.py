"""No code out of a folder: what a run names is imported only where the caller asks for it."""

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import preceptor
from preceptor import names, runs
from preceptor.cli import app
from preceptor.data.dataset import labels_of
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, Recipe, TeacherRef, TeachRecipe, parse
from preceptor.runs.files import load_tensors
from preceptor.schema import Component
from preceptor.study.grid import run_study
from preceptor.study.recipe import Study
from preceptor.study.teachers import assess_teachers, choose_teacher, keep_teaching, read_candidates
from preceptor.training import Student, distill_stack
from preceptor.training.data.samples import load_data

# Whoever imports it leaves a mark beside it.
TRAP = """
from pathlib import Path

from torch import nn

from preceptor import data, losses, teaching

Path(__file__).with_name("marker").touch()


def net(num_classes, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))


def samples():
    return data.digits()


def loss(student_logits, teacher_logits, *, mask=None):
    return losses.kd(student_logits, teacher_logits, mask=mask)


def objective(logits, labels, *, mask=None):
    return teaching.cross_entropy(logits, labels, mask=mask)


ready = net(10)
"""
COMMON: dict[str, Any] = {
    "split": {"train": 100, "heldout": 60, "test": 60},
    "training": {"epochs": 2, "batch_size": 50, "device": "cpu", "keep": "all"},
}
OURS: dict[str, Any] = {**COMMON, "data": "digits", "model": {"name": "mlp", "hidden": [5]}}
NET = {"name": "trap:net", "width": 7}
TRAPPED: dict[str, Any] = {**COMMON, "data": "digits", "model": NET}


def forget() -> None:
    sys.modules.pop("trap", None)


def imported(folder: Path) -> bool:
    return (folder / "marker").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose weights, recipes and members name the trap; a study; and no mark."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "trap.py").write_text(TRAP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        trapped = {**TRAPPED, "objective": "trap:objective", "average": {"kind": "swa"}}
        preceptor.teach(trapped, "t")
        preceptor.teach({**trapped, "data": "trap:samples", "model": OURS["model"]}, "data")
        preceptor.teach({**OURS, "model": None}, "own", model=importlib.import_module("trap").net)
        preceptor.teach(OURS, "ours")
        preceptor.teach(TRAPPED, "stack", seeds=[0, 1])
        recipe = parse(DistillRecipe, {**OURS, "model": NET})
        students = [Student(0, 0, Component(name="trap:loss")), Student(0, 0, Component(name="kd"))]
        distill_stack(recipe, students, torch.zeros(1, len(labels_of(load_data(recipe).train)), 10), "students")
        run_study(study(TRAPPED), Path("study"), command="")
    forget()
    (folder / "marker").unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder


def study(recipe: dict[str, Any]) -> Study:
    part = {**recipe, "training": {**recipe["training"], "epochs": 1, "keep": "last"}}
    teachers, kd = {"ce": {"objective": "cross_entropy"}}, {"kd": {"loss": "kd"}}
    raw = {"name": "s", "seeds": [0], "teach": part, "distill": part, "baseline": part, "threads": 1}
    return parse(Study, raw | {"teachers": teachers, "losses": kd})


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, which is where the command is called from."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    return tmp_path


def ref(**options: Any) -> TeacherRef:
    return parse(TeacherRef, {"run": "t", **options})


def student(**options: Any) -> Any:
    return preceptor.distill({**OURS, "training": {**OURS["training"], "epochs": 1}}, "s", **options)


def student_recipe(run: str) -> DistillRecipe:
    return parse(DistillRecipe, {**OURS, "teacher": run})


def cli(*arguments: str) -> None:
    called = CliRunner().invoke(app, list(arguments))
    if called.exit_code:
        raise InputError(" ".join(called.stderr.split()))


def quick(*arguments: str) -> list[str]:
    return ["distill", "distill-digits", "training.epochs=1", "split={train: 100, heldout: 60}", "-o", "s", *arguments]


Reader = Callable[..., Any]
# Every way in which a folder is read; each takes `trust`.
READERS: dict[str, Reader] = {
    "load": lambda trust: preceptor.load("t", trust=trust),
    "load best": lambda trust: preceptor.load("t:best", trust=trust),
    "load epoch": lambda trust: preceptor.load("t:epoch-1", trust=trust),
    "load file": lambda trust: preceptor.load("t/average.safetensors", trust=trust),
    "load member": lambda trust: preceptor.load("stack:member-1", trust=trust),
    "load own": lambda trust: preceptor.load("own", trust=trust),
    "load student": lambda trust: preceptor.load("students", member=0, trust=trust),
    "load of a study": lambda trust: preceptor.load("study/teachers/ce", member=0, trust=trust),
    "load_model": lambda trust: runs.load_model(Path("t/last.safetensors"), trust=trust),
    "load_teacher": lambda trust: runs.load_teacher(ref(weights="best"), trust=trust),
    "stack_of": lambda trust: runs.stack_of(runs.read_weights(Path("stack/last.safetensors")), "it", trust=trust),
    "distill name": lambda trust: student(teacher="t", trust=trust),
    "distill names": lambda trust: student(teacher=["ours", "t:epoch-1"], trust=trust),
    "distill ensemble": lambda trust: student(teacher="ours+stack:member-0", trust=trust),
    "distill recipe": lambda trust: preceptor.distill(student_recipe("t"), "s", trust=trust),
    "distill own": lambda trust: student(teacher="own", trust=trust),
    "read_candidates": lambda trust: read_candidates(["t:epoch-1"], trust=trust),
    "read_candidates data": lambda trust: read_candidates(["data:epoch-1"], trust=trust),
    "assess": lambda trust: assess_teachers(["ours", "t:epochs"], trust=trust),
    "assess transfer": lambda trust: assess_teachers("t", transfer=True, trust=trust),
    "assess data": lambda trust: assess_teachers("data", transfer=True, trust=trust),
    "choose": lambda trust: choose_teacher(student_recipe("ours"), ["t"], trust=trust),
    "choose data": lambda trust: choose_teacher(student_recipe("ours"), ["data"], trust=trust),
    "keep_teaching": lambda trust: keep_teaching(Path("t"), trust=trust),
    "cli assess": lambda trust: cli("assess", "t:epoch-1", *["--allow-code"] * trust),
    "cli assess ensemble": lambda trust: cli("assess", "ours:epoch-1+t:epoch-1", *["--allow-code"] * trust),
    "cli distill": lambda trust: cli(*quick("--teacher", "t"), *["--allow-code"] * trust),
    "cli distill key": lambda trust: cli(*quick("teacher=t"), *["--allow-code"] * trust),
    "cli distill auto": lambda trust: cli(*quick("--teacher", "auto", "t"), *["--allow-code"] * trust),
}
# Readers that need no code, and so import none, whatever the folder names.
DRY: dict[str, Reader] = {
    "recipe": lambda: runs.read_recipe(Path("t")),
    "members": lambda: runs.read_members(Path("students")),
    "objects": lambda: runs.read_objects(Path("own")),
    "result": lambda: runs.read_result(Path("t")),
    "weights": lambda: runs.read_weights(Path("t/last.safetensors")),
    "assess what is stored": lambda: assess_teachers(["t", "t:average", "data", "own"]),
    "cli assess": lambda: cli("assess", "t", "t:average", "data", "own", "stack:member-0"),
    "report": lambda: cli("report", "study"),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_code_that_a_folder_names_is_imported_only_if_trusted(reader: Reader, place: Path) -> None:
    with pytest.raises(InputError, match=r"names code, the (model|data) 'trap:\w+', which is not imported unasked"):
        reader(False)
    assert not imported(place)
    assert not (place / "s").exists()
    reader(True)
    assert imported(place)


@pytest.mark.parametrize("reader", DRY.values(), ids=DRY.keys())
def test_what_needs_no_code_imports_none(reader: Reader, place: Path) -> None:
    reader()
    assert not imported(place)


@pytest.mark.parametrize("trust", ["trap:nets", ["trap:ne"], {"x:y"}, [], ""])
def test_other_names_than_the_trusted_ones_are_not_imported(trust: Any, place: Path) -> None:
    _refused(lambda: preceptor.load("t", trust=trust))
    assert not imported(place)


@pytest.mark.parametrize("trust", ["trap:net", ["trap:net"], {"trap:net", "x:y"}])
def test_single_names_can_be_trusted(trust: Any, place: Path) -> None:
    found = preceptor.load("t", trust=trust)
    assert found(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(InputError, match="the data 'trap:samples', which"):
        assess_teachers("data", transfer=True, trust=trust)


def _refused(do: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        do()
    return caught.value


def test_the_remedies_work_as_they_are_typed(place: Path) -> None:
    """What the sentence says, in Python and on the command line, with the options that the run names (a width)."""
    sentence = str(_refused(lambda: preceptor.load("t")))
    assert "give model='trap:net' (to distill: teacher_model) or trust=True" in sentence
    assert preceptor.load("t", model="trap:net")[1].out_features == 7  # type: ignore[index]
    student(teacher="t", teacher_model="trap:net")
    sentence = str(_refused(lambda: cli("assess", "t:epoch-1")))
    assert sentence.endswith("(on the command line: --model trap:net or --allow-code)")
    cli("assess", "t:epoch-1", "--model", "trap:net")
    assert str(_refused(lambda: cli("assess", "data:epoch-1"))).endswith("(on the command line: --allow-code)")
    trap = importlib.import_module("trap")
    assert preceptor.load("t", model=trap.net)[1].out_features == 7  # type: ignore[index]
    assert assess_teachers("data", transfer=True, data=trap.samples())


def test_the_recipe_of_this_command_is_asked_for(place: Path) -> None:
    recipe = parse(DistillRecipe, {**TRAPPED, "teacher": "t"})
    preceptor.distill(recipe, "s")
    assert imported(place)
    resolved, _ = choose_teacher(parse(DistillRecipe, TRAPPED), ["t"])
    assert resolved.teacher


@pytest.mark.parametrize("unfinished", [False, True])
def test_resuming_with_the_original_recipe_is_asked_for(unfinished: bool, place: Path) -> None:
    if unfinished:
        (place / "t" / "result.json").unlink()
    with pytest.raises(InputError, match="holds another recipe"):
        preceptor.teach(OURS, "t")
    assert not imported(place)
    preceptor.teach({**TRAPPED, "objective": "trap:objective", "average": {"kind": "swa"}}, "t")
    assert imported(place)


@pytest.mark.parametrize("how", ["stacked", "workers"])
def test_a_study_gets_its_code_from_the_study_that_was_given(how: str, place: Path) -> None:
    """Not from the one in the folder, and not from its runs' weights, should they name another model."""
    with pytest.raises(InputError, match="holds another study"):
        run_study(study(OURS), Path("study"), command="")
    assert not imported(place)
    asked = study(TRAPPED).model_copy(update={"stack_teachers": how == "stacked", "workers": 1 + (how == "workers")})
    run_study(asked, Path(how), command="")
    ours = study(OURS).model_copy(update={"stack_teachers": how == "stacked"})
    run_study(ours, Path("mine"), command="")
    (place / "marker").unlink()
    forget()
    (place / "mine" / "study.json").unlink()
    run = place / "mine" / "teachers" / "ce"
    name_in_header(run if how == "stacked" else run / "seed-0")
    with pytest.raises(InputError, match=r"names code, the model 'trap:net', which is not imported unasked"):
        run_study(ours, Path("mine"), command="")
    assert not imported(place)


def name_in_header(run: Path) -> None:
    """Let a run's weights name the trap, as somebody who also writes the checksums would."""
    path = run / "last.safetensors"
    tensors, metadata = load_tensors(path)
    runs.save_weights(path, tensors, metadata | {"model": NET})
    runs.write_result(run, runs.read_result(run))


def test_a_name_without_a_function_asks_for_the_function(place: Path) -> None:
    make = importlib.import_module("trap").net
    preceptor.teach(OURS, "lambda", model=lambda num_classes: make(num_classes))
    said = str(_refused(lambda: preceptor.load("lambda")))
    assert "give the function itself as model= (to distill: teacher_model)" in said
    assert preceptor.load("lambda", model=lambda num_classes: make(num_classes))


def test_a_module_can_be_given_for_a_run_and_stays_as_it_is(place: Path) -> None:
    trap = importlib.import_module("trap")
    before = {name: tensor.clone() for name, tensor in trap.ready.state_dict().items()}
    loaded = preceptor.load("own", model="trap:ready")
    assert loaded is not trap.ready
    for name, tensor in trap.ready.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(tensor, loaded.state_dict()[name])


# -- what may stand under a name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"model": "collections:OrderedDict"}, "the model 'collections:OrderedDict' is a OrderedDict, not a torch.nn"),
        ({"model": "trap:samples"}, "the model 'trap:samples' is a Data, not a torch.nn.Module"),
        ({"model": "trap:ready"}, "the model 'trap:ready' is a Sequential already made; give a function"),
        ({"model": "os:getcwd"}, "the model 'os:getcwd' is a str, not a torch.nn.Module"),
        ({"model": "..x:y"}, "the model '..x:y' cannot be imported"),
        ({"model": "broken:net"}, "the model 'broken:net' cannot be imported: .*invalid syntax"),
        ({"model": "trap:.net"}, "has no callable '.net'"),
        ({"objective": "collections:Counter"}, "the objective 'collections:Counter' is a Counter, not a function"),
        ({"objective": "trap:net"}, "the objective 'trap:net' "),
        ({"objective": "os:getcwd"}, "the objective 'os:getcwd' refuses"),
        ({"data": "trap:net"}, "the data 'trap:net' needs 'num_classes'"),
        ({"data": "os:getcwd"}, "data"),
        ({"augmentation": "collections:Counter"}, "is a Counter, not an object with methods draw and apply"),
        ({"augmentation": "os:getcwd"}, "is a str, not an object with methods draw and apply"),
    ],
)
def test_what_is_imported_is_of_the_kind_that_is_wanted(overrides: Any, sentence: str, place: Path) -> None:
    (place / "broken.py").write_text("def net(:\n")
    with pytest.raises(InputError, match=sentence):
        preceptor.teach({**OURS, **overrides}, "new")
    assert not (place / "new").exists()


def test_a_loss_is_a_function_or_a_module(place: Path) -> None:
    for name in ("collections:Counter", "os:getcwd", "trap:ready"):
        with pytest.raises(InputError, match=f"the loss '{name}' "):
            student(teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), loss=name)


# -- names ----------------------------------------------------------------------------------------------------


def test_every_key_of_a_recipe_that_is_a_name_is_seen() -> None:
    """Should a recipe get one more, it is trusted like the others."""
    for kind in (TeachRecipe, DistillRecipe):
        keys = [key for key, field in kind.model_fields.items() if "Component" in str(field.annotation)]
        assert set(Recipe.model_fields) & {*keys} == {"data", "model", "augmentation", "mixing"}
        raw = {key: f"mine:{key}" for key in keys}
        assert names.named_in(kind.model_validate(raw)) == {f"mine:{key}" for key in keys}


@pytest.mark.parametrize("room", names.ROOMS)
def test_nothing_is_trusted_by_default(room: str) -> None:
    with pytest.raises(InputError, match=f"what was read names code, the {room} 'os:getcwd'"):
        names.find(room, "os:getcwd")
    assert names.find("data", "os:getcwd", trust=True)


def test_a_complete_run_is_returned_without_the_code_of_its_teacher(place: Path) -> None:
    first = student(teacher="t", trust=True)
    cli(*quick("-o", "c", "--teacher", "t", "--allow-code"))
    students: dict[str, Any] = {"kd": {"loss": "kd"}, "wttm": {"loss": "wttm"}}
    together = preceptor.distill_together(OURS, students, "both", teacher="t", trust=True)
    forget()
    (place / "marker").unlink()
    assert student(teacher="t") == first
    cli(*quick("-o", "c", "--teacher", "t"))
    assert preceptor.distill_together(OURS, students, "both", teacher="t") == together
    assert not imported(place)
    with pytest.raises(InputError, match="the run folder 's' holds another recipe: teacher"):
        student(teacher="ours")
    (place / "s" / "result.json").unlink()  # now there is something left to do
    with pytest.raises(InputError, match=r"not imported unasked; give model='trap:net'"):
        student(teacher="t")
    assert not imported(place)
