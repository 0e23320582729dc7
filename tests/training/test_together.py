"""Students side by side become what each would be alone, and their teacher is asked once a batch."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import preceptor
from preceptor.errors import InputError
from preceptor.interrupts import Interrupted
from preceptor.models import resnet8
from preceptor.training.data.batches import WHOLE
from preceptor.training.loop.loop import Loop
from preceptor.training.together import SharedBatches
from training.toys import RECIPE, snapshot, teach_recipe, weights

COMMON = RECIPE
STUDENTS: dict[str, dict[str, Any]] = {
    "kd": {"loss": "kd"},
    "wttm": {"loss": {"name": "wttm", "temperature": 2.0}, "streams": {"initialization": 1}},
    "long": {"loss": "ttm", "training": {"epochs": 3}, "average": {"kind": "ema", "decay": 0.9}},
}


class Counted(nn.Module):
    """A teacher that counts how often it is asked; not one that may be asked once for all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x) > 16  # probes are smaller
        return self.linear(x.flatten(1))


def together(folder: Path, teacher: nn.Module, students: Any = STUDENTS, **keywords: Any) -> Any:
    return preceptor.distill_together(COMMON, students, folder, teacher=teacher, cache=False, **keywords)


def alone(folder: Path, name: str, teacher: nn.Module) -> None:
    base = COMMON
    preceptor.distill(base, folder / name, teacher=teacher, cache=False, **STUDENTS[name])


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    for name in STUDENTS:
        alone(folder, name, Counted())
    return folder


def test_each_is_what_it_would_be_alone(tmp_path: Path, apart: Path) -> None:
    teacher = Counted()
    results = together(tmp_path, teacher)
    assert list(results) == list(STUDENTS)
    for name in STUDENTS:
        assert snapshot(tmp_path / name) == snapshot(apart / name)
    again = together(tmp_path, Counted())
    assert again == results


def test_the_teacher_is_asked_once_a_batch(tmp_path: Path) -> None:
    one, three = Counted(), Counted()
    together(tmp_path / "one", one, {"long": STUDENTS["long"]})
    together(tmp_path / "three", three)
    assert three.calls == one.calls > 9  # three epochs of three batches, and its scores


def test_a_table_of_answers_is_made_once(tmp_path: Path, apart: Path) -> None:
    teacher = Counted()
    preceptor.distill_together(COMMON, STUDENTS, tmp_path, teacher=teacher)
    assert teacher.calls < 6
    for name in STUDENTS:
        assert (tmp_path / name / "result.json").exists()


@pytest.mark.parametrize("step", [1, 4, 7])
def test_an_interrupted_company_goes_on_to_the_same_end(
    step: int, tmp_path: Path, apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Loop._step

    def asked_to_stop(loop: Loop, batches: Any) -> None:
        whole(loop, batches)
        if loop.progress.step == step and loop.recipe.loss.name == "ttm":  # type: ignore[union-attr]
            loop.interruption.is_first(signal.SIGINT)

    monkeypatch.setattr(Loop, "_step", asked_to_stop)
    with pytest.raises(Interrupted) as stopped:
        together(tmp_path, Counted())
    assert stopped.value.saved
    monkeypatch.undo()
    together(tmp_path, Counted())
    for name in STUDENTS:
        assert snapshot(tmp_path / name) == snapshot(apart / name)


def test_students_at_different_steps_are_brought_together(tmp_path: Path, apart: Path) -> None:
    alone(tmp_path, "kd", Counted())  # complete
    together(tmp_path, Counted())
    for name in STUDENTS:
        assert snapshot(tmp_path / name) == snapshot(apart / name)


def test_one_that_diverges_is_given_up_and_the_others_end(tmp_path: Path) -> None:
    students = {"wild": {"loss": "kd", "optimizer": {"lr": 1e30}}, "kd": STUDENTS["kd"]}
    with pytest.raises(InputError, match="the student 'wild' was given up, and the others are complete: the logits"):
        together(tmp_path, Counted(), students)
    assert (tmp_path / "kd" / "result.json").exists()
    assert not (tmp_path / "wild" / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"training": {"batch_size": 32}}, "the students 'one' and 'two' differ in batch_size"),
        ({"augmentation": "crop_flip"}, "the students 'one' and 'two' differ in augmentation"),
        ({"seed": 1}, r"differ in the seed of split and order and augmentation, .* streams={'split': 0, 'order': 0"),
    ],
)
def test_students_that_would_see_other_batches_are_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        together(tmp_path, Counted(), {"one": {}, "two": change})
    assert not list(tmp_path.iterdir())


def test_seeds_share_batches_under_common_streams(tmp_path: Path) -> None:
    streams = {"split": 0, "order": 0, "augmentation": 0}
    results = together(tmp_path, Counted(), {str(s): {"seed": s, "streams": streams} for s in (0, 1)})
    assert results["0"]["heldout"] != results["1"]["heldout"]


@pytest.mark.parametrize("form", ["dense", "top_k", "sampled"])
def test_a_record_teaches_each_as_it_would_alone(form: str, tmp_path: Path) -> None:
    asked = {key: COMMON[key] for key in ("data", "split", "training", "augmentation") if key in COMMON}
    k = None if form == "dense" else 4
    preceptor.record(Counted(), tmp_path / "record", form=form, k=k, views=2, **asked)
    students: dict[str, Any] = {"kd": {"loss": "kd"}, "ttm": {"loss": "ttm"}}
    taught = {"teacher": tmp_path / "record", "epochs": 1}
    preceptor.distill_together(COMMON, students, tmp_path / "s", **taught)
    preceptor.distill(COMMON, tmp_path / "alone", loss="ttm", **taught)
    assert snapshot(tmp_path / "s" / "ttm") == snapshot(tmp_path / "alone")


def test_a_run_as_teacher_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preceptor.teach(teach_recipe(), tmp_path / "teacher")
    together_with = {"teacher": tmp_path / "teacher", "epochs": 1}
    preceptor.distill_together(COMMON, {"kd": {"loss": "kd"}, "ttm": {"loss": "ttm"}}, tmp_path / "s", **together_with)
    preceptor.distill(COMMON, tmp_path / "alone", loss="kd", **together_with)
    assert snapshot(tmp_path / "s" / "kd") == snapshot(tmp_path / "alone")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_names_that_are_no_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a student is called"):
        together(tmp_path, Counted(), {name: {}})


@pytest.mark.parametrize(
    ("students", "expected"),
    [
        (None, "the students are a NoneType; give a mapping"),
        ([{"loss": "kd"}], "the students are a list; give a mapping"),
        ("kd", "the students are a str; give a mapping"),
        ((("a", {"loss": "kd"}) for _ in range(1)), "the students are a generator; give a mapping"),
        ({}, "there are no students"),
        ({"a": "kd"}, "of the student 'a' a str is given; give a mapping"),
        ({"a": None}, "of the student 'a' a NoneType is given"),
        ({1: {}}, "a student is called 1; call it by letters"),
        ({b"a": {}}, "a student is called b'a'"),
        ({"../a": {}}, "a student is called '../a'"),
        ({"x" * 300: {}}, "a student is called 'xxx"),
        ({"KD": {}, "kd": {"loss": "wttm"}}, "the folders 'KD' and 'kd' may be one"),
        ({"a": {"data": "digits"}}, "the student 'a' has 'data' of its own"),
        ({"a": {"teacher": "run"}}, "the student 'a' has 'teacher' of its own"),
        ({"a": {"folder": "elsewhere"}}, "the student 'a' has 'folder' of its own"),
        ({"a": {"los": "kd"}}, "there is no keyword 'los'; did you mean 'loss'"),
        ({"a": {1: 2}}, "there is no keyword '1'"),
        ({"a": {"epochs": 0}}, "'training.epochs' is 0"),
    ],
)
def test_students_that_cannot_be(tmp_path: Path, students: Any, expected: str) -> None:
    with pytest.raises(InputError) as error:
        together(tmp_path / "s", nn.Linear(64, 10), students)
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_path() -> None:
    for verb in (preceptor.teach, lambda *given: preceptor.distill_together(given[0], {"a": {}}, given[1])):
        with pytest.raises(InputError, match="the folder is a int; give a path"):
            verb(COMMON, 3)


# -- what students might do to each other ------------------------------------------------------------------------------

POINTS: dict[str, Any] = {"split": {"heldout": 20}, "epochs": 2, "batch_size": 32, "device": "cpu", "cache": False}


def points() -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(8, generator=generator), label % 3) for label in range(85)]  # the last of three batches has 1


class Linear(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(8, num_classes)


class InPlace(Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mul_(3.0) if self.training else input)


class Normed(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Linear(8, num_classes), nn.BatchNorm1d(num_classes))


def noisy(batch: Any) -> Tensor:
    return batch["input"][:, :3] + torch.randn(len(batch["input"]), 3)


def assert_as_alone(folder: Path, name: str, students: Any, teacher: Any, **keywords: Any) -> None:
    preceptor.distill_together(None, students, folder / "together", teacher=teacher, **keywords)
    preceptor.distill(None, folder / "alone", teacher=teacher, **(keywords | students[name]))
    one, other = weights(folder / "together" / name), weights(folder / "alone")
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_student_that_changes_its_inputs_changes_nobody_elses(tmp_path: Path) -> None:
    students = {"changes": {"model": InPlace, "loss": "kd"}, "other": {"model": Linear, "loss": "kd"}}
    assert_as_alone(tmp_path, "other", students, nn.Linear(8, 3), data=points(), **POINTS)


def test_a_teacher_that_draws_draws_as_for_one_alone(tmp_path: Path) -> None:
    students = {"a": {"loss": "ttm"}, "b": {"loss": "kd"}}
    assert_as_alone(tmp_path, "b", students, noisy, data=points(), model=Linear, **POINTS)


def test_a_teacher_of_images_answers_in_the_layout_of_each_student(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [(torch.rand(3, 16, 16, generator=generator), label % 3) for label in range(50)]
    flat = {"model": {"name": "mlp", "hidden": [4]}}
    students = {"conv": {"model": "resnet8"}, "flat": flat}
    common = POINTS | {"batch_size": 8, "epochs": 1, "data": images, "loss": "kd"}
    assert_as_alone(tmp_path, "flat", students, resnet8(num_classes=3), **common)


def test_students_of_other_last_batches_are_refused(tmp_path: Path) -> None:
    students = {"plain": {"model": Linear}, "normed": {"model": Normed}}
    sentence = "the students 'plain' and 'normed' differ in the last batch of an epoch, for whose 1 sample"
    with pytest.raises(InputError, match=sentence):
        preceptor.distill_together(None, students, tmp_path, teacher=nn.Linear(8, 3), data=points(), **POINTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("augmented", [False, True])
def test_students_that_look_into_the_teacher_become_what_they_would_alone(augmented: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = resnet8(num_classes=3, input_shape=(3, 8, 8))
    images = torch.randn(60, 3, 8, 8)
    sets = tuple(TensorDataset(images[rows], torch.arange(20) % 3) for rows in torch.arange(60).split(20))
    students = {name: {"loss": name} for name in ("kd", "FitNet", "SP", "CRD")} | {"sum": {"loss": ["wttm", "AT"]}}
    common: Any = {"data": sets, "model": "resnet8", "epochs": 2, "batch_size": 8, "device": "cpu", "teacher": teacher}
    if augmented:
        common["augmentation"] = "crop_flip"
    preceptor.distill_together(None, students, tmp_path / "together", **common)
    for name, said in students.items():
        preceptor.distill(None, tmp_path / "alone" / name, **said, **common)
        one, other = (load_file(tmp_path / each / name / "last.safetensors") for each in ("together", "alone"))
        assert all(torch.equal(one[key], other[key]) for key in other), name


def test_a_loss_with_views_of_its_own_is_refused(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def views(self, input: Tensor) -> Tensor:
            return -input

        def forward(self, student: Tensor, teacher: Tensor, *, student_views: Tensor, mask: Tensor) -> Tensor:
            return student_views.sum((0, 2))

    with pytest.raises(InputError, match="the loss 'Turned' of the student 'turned' shows the teacher views"):
        together(tmp_path, Counted(), {"kd": STUDENTS["kd"], "turned": {"loss": Turned()}})


def test_after_a_sample_that_cannot_be_read_each_student_is_refused_for_it() -> None:
    class Broken:
        steps_per_epoch = 3

        def epoch(self, epoch: int, *, start: int = 0, shard: Any = WHOLE) -> Any:
            for step in range(start, 3):
                if step == 1:
                    raise InputError("sample 17 of the data set cannot be read")
                yield [{"input": torch.zeros(2)}]

    batches = SharedBatches(Broken())  # type: ignore[arg-type]
    students = [batches.epoch(0), batches.epoch(0)]
    assert all(next(student) for student in students)
    for student in students:
        with pytest.raises(InputError, match="sample 17"):
            next(student)


def test_all_that_are_given_up_are_named(tmp_path: Path) -> None:
    students = {name: {"loss": "kd", "optimizer": {"lr": 1e30}} for name in ("one", "two")} | {"kd": STUDENTS["kd"]}
    with pytest.raises(InputError, match=r"the student 'one' \(and 'two'\) was given up, and the others are complete"):
        together(tmp_path, Counted(), students)


def test_an_interruption_before_all_have_gone_on_leaves_their_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stop = Loop._step, 3

    def asked_to_stop(loop: Loop, batches: Any) -> None:
        whole(loop, batches)
        if loop.progress.step >= stop:
            loop.interruption.is_first(signal.SIGINT)

    monkeypatch.setattr(Loop, "_step", asked_to_stop)
    for _ in range(2):
        with pytest.raises(Interrupted):
            together(tmp_path, Counted(), training={**COMMON["training"], "keep": "all"})
    found = sorted(path.name for path in (tmp_path / "long" / "checkpoints").iterdir())
    assert not [name for name in found if name.startswith("epoch-0000-step-00000000")]


def test_an_interruption_saves_all_but_who_has_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Loop.save

    def save(loop: Loop) -> bool:
        if loop.recipe.loss.name == "wttm":  # type: ignore[union-attr]
            raise InputError("the logits for sample 3 are not finite")
        return whole(loop)

    step = Loop._step

    def asked_to_stop(loop: Loop, batches: Any) -> None:
        step(loop, batches)
        if loop.progress.step == 2 and loop.recipe.loss.name == "kd":  # type: ignore[union-attr]
            loop.interruption.is_first(signal.SIGINT)

    monkeypatch.setattr(Loop, "save", save)
    monkeypatch.setattr(Loop, "_step", asked_to_stop)
    with pytest.raises(Interrupted) as stopped:
        together(tmp_path, Counted())
    assert not stopped.value.saved
    assert list((tmp_path / "long" / "checkpoints").iterdir())
