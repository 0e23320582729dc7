"""Losses that look into the models in whole runs: what is refused, in one sentence and before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import preceptor
from preceptor.data import digits
from preceptor.errors import InputError
from preceptor.losses.features import CRD, FitNet
from preceptor.tasks.teacher import as_teacher
from training.toys import assert_close, distill_recipe, metrics, snapshot, stopped_at, weights


def net(num_classes: int = 10, width: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(9 * width, num_classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return net(width=5)


HINT = "loss={name: FitNet, student: '2', teacher: '2'}"


def distilled(teacher: Any, *overrides: str, folder: Path | None = None, **more: Any) -> Any:
    return preceptor.distill(
        distill_recipe(HINT, "cache=false", *overrides), folder, teacher=teacher, model=net, **more
    )


# -- sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("[kd, kd]", "the sum has 'kd' twice; give it once, with the weight of both"),
        ("[kd, FitNett]", "there is no loss called 'FitNett'; did you mean 'FitNet'"),
        ("[kd, {name: SP, weight: -1}]", "the weight of 'SP' in a sum is -1; give a number of at least 0"),
        ("[kd, {name: SP, weight: .nan}]", "the weight of 'SP' in a sum is nan"),
        ("[kd, {name: SP, weight: '3'}]", "the weight of 'SP' in a sum is '3'"),
        ("[kd, {name: SP, wieght: 1}]", "unknown key 'loss.wieght' for the loss 'SP'"),
        ("[]", "a sum is a list of losses"),
        ("[3]", "3 is no part of a sum"),
        ("[kd, [SP]]", "is no part of a sum"),
        ("{name: FitNet, student: []}", r"the taps are \[\]; give one name of a module or several"),
        ("{name: FitNet, student: 'conv1'}", "the student has no module 'conv1' to tap"),
        ("{name: FitNet, student: ['0', '2'], teacher: '0'}", r"compares 2 features of the student \(0, 2\) with 1"),
        ("{name: FitNet, stdent: '0'}", "did you mean 'student'"),
    ],
)
def test_what_a_recipe_may_not_say(loss: str, said: str, teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        distilled(teacher, f"loss={loss}", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- teachers ----------------------------------------------------------------------------------------------------------


def test_a_table_or_a_function_has_no_features(teacher: nn.Module, tmp_path: Path) -> None:
    for given in (lambda batch: teacher(batch["input"]), as_teacher([net(), net()])):
        with pytest.raises(InputError, match="needs features of the teacher, which only one live model can give"):
            distilled(given)


def test_a_transformed_teacher_gives_the_features_of_its_model(teacher: nn.Module, tmp_path: Path) -> None:
    for name, more in {"plain": (), "hot": ("transform={kind: temperature, temperature: 9}",)}.items():
        distilled(teacher, *more, folder=tmp_path / name)
    assert_close(weights(tmp_path / "plain"), weights(tmp_path / "hot"), 1e-6)


def test_a_teacher_whose_features_are_wanted_is_not_asked_once_for_all(teacher: nn.Module, tmp_path: Path) -> None:
    distilled(teacher, "cache=true", folder=tmp_path / "cached")
    distilled(teacher, folder=tmp_path / "live")
    assert_close(weights(tmp_path / "cached"), weights(tmp_path / "live"), 0)


def test_in_a_stack_such_a_loss_is_refused() -> None:
    from preceptor.schema import Component
    from preceptor.training import distill_stack
    from preceptor.training.verbs import Student

    student = Student(0, 0, Component(name="FitNet"))
    with pytest.raises(InputError, match=r"'FitNet' .* cannot be trained in a stack"):
        distill_stack(distill_recipe(), [student], torch.zeros(1, 1797, 10))


# -- speed and precision -----------------------------------------------------------------------------------------------


def test_compiling_is_off_and_says_why(teacher: nn.Module) -> None:
    with pytest.raises(InputError, match="compile is true, but 'FitNet' looks into the models; set it"):
        distilled(teacher, "training.compile=true")


def test_a_model_that_is_compiled_already_is_refused(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the teacher cannot be looked into, as .* compiled"):
        distilled(torch.compile(net(width=5)), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", [HINT, "loss={name: RKD, student: '2'}", "loss={name: CRD, negatives: 50}"])
def test_bfloat16(loss: str, teacher: nn.Module, tmp_path: Path) -> None:
    result = distilled(teacher, loss, "training.precision=bf16", folder=tmp_path / "run")
    assert all(torch.isfinite(each).all() for each in weights(tmp_path / "run").values())
    assert all(each.dtype == torch.float32 for each in weights(tmp_path / "run").values())
    assert result["test"]["last"]["nll"] < 10


def test_a_single_sample_in_a_last_batch(teacher: nn.Module, tmp_path: Path) -> None:
    """65 samples in batches of 64: of the last one no relation can be told."""
    for loss in ("RKD", "SP", "PKT", "CC"):
        distilled(teacher, f"loss={{name: {loss}, student: '2'}}", "split.train=65", folder=tmp_path / loss)
        assert all(torch.isfinite(each).all() for each in weights(tmp_path / loss).values())


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [HINT, "loss=[kd, {name: CRD, negatives: 40}]"])
def test_a_stopped_run_goes_on_to_the_same_bits(loss: str, teacher: nn.Module, tmp_path: Path) -> None:
    more = (loss, "training.epochs=3", "training.checkpoint_every=2")
    distilled(teacher, *more, folder=tmp_path / "whole")
    with stopped_at(5):
        distilled(teacher, *more, folder=tmp_path / "run")
    distilled(teacher, *more, folder=tmp_path / "run")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def test_going_on_with_data_of_another_length(teacher: nn.Module, tmp_path: Path) -> None:
    """The memory of CRD has a row for each sample."""
    found = digits()

    def run(size: int) -> Any:
        data = [found.train[i] for i in range(size)]
        return distilled(
            teacher, "loss={name: CRD, negatives: 40}", "split.train=150", folder=tmp_path / "run", data=data
        )

    with stopped_at(4):
        run(300)
    with pytest.raises(InputError, match="was made with another data"):
        run(310)


def test_the_parts_are_the_same_for_the_same_seed(teacher: nn.Module, tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.manual_seed({"one": 1, "two": 2}[name])
        distilled(teacher, folder=tmp_path / name)
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), 0)


def test_an_object_and_its_name_are_one(teacher: nn.Module, tmp_path: Path) -> None:
    distilled(teacher, folder=tmp_path / "name")
    recipe = distill_recipe("cache=false", "ce_weight=1.0", "distill_weight=100.0")
    loss = FitNet(student="2", teacher="2")
    preceptor.distill(recipe, tmp_path / "object", teacher=teacher, model=net, loss=loss)
    assert_close(weights(tmp_path / "name"), weights(tmp_path / "object"), 0)


def test_taps_that_fit_no_loss(teacher: nn.Module) -> None:
    recipe = distill_recipe("cache=false")
    for loss, said in ((CRD(student="2:output"), "no module '2:output'"), (FitNet(student=["0", "nope"]), "'nope'")):
        with pytest.raises(InputError, match=said):
            preceptor.distill(recipe, teacher=teacher, model=net, loss=loss)
