"""A stack of models trains as each would alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preceptor.errors import InputError
from preceptor.recipe import Component
from preceptor.runs import load_model
from preceptor.tasks.stack import Stack, clip_each, member_state
from preceptor.training import Lookup, Student, distill, distill_stack, teach
from training.toys import assert_close, distill_recipe, teach_recipe, weights

SEEDS = [3, 0, 7]


def conv(num_classes: int) -> nn.Module:
    """Convolution, batch normalisation, a buffer that is not saved."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, num_classes)
    )
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    return model


def assert_same_members(stack: Path, result: Any, alone: list[Path], results: list[Any]) -> None:
    for kind in results[0]["heldout"]:
        stacked = weights(stack, kind)
        for member, folder in enumerate(alone):
            assert_close(member_state(stacked, member), weights(folder, kind), 1e-5)
    assert result["best_epoch"] == [one["best_epoch"] for one in results]
    for part in ("heldout", "test"):
        for kind, scores in result[part].items():
            for name, values in scores.items():
                expected = [one[part][kind][name] for one in results]
                assert values == pytest.approx(expected, abs=1e-5), (part, kind, name)


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["objective=SoTeacher", "training.clip_norm=0.3", "average.decay=0.8"], None),
        (["optimizer.name=adamw", "optimizer.lr=1e-2", "training.select=accuracy"], None),
        (["objective=mse", "training.clip_norm=1.0", "augmentation.name=crop_flip", "augmentation.padding=1"], None),
        (["objective=SoTeacher", "optimizer.lr=0.01"], conv),
    ],
)
def test_teachers_train_as_alone(overrides: list[str], model: Any, tmp_path: Path) -> None:
    recipe = teach_recipe("training.epochs=4", *overrides)
    result = teach(recipe, tmp_path / "stack", seeds=SEEDS, model=model)
    alone = [tmp_path / str(seed) for seed in SEEDS]
    results = [
        teach(recipe.model_copy(update={"seed": seed}), folder, model=model)
        for seed, folder in zip(SEEDS, alone, strict=True)
    ]
    assert_same_members(tmp_path / "stack", result, alone, results)
    assert len(set(map(str, result["heldout"]["last"]["nll"]))) == len(SEEDS)  # they are not all one


def test_each_model_is_clipped_alone() -> None:
    gradients = [torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([[0.0], [1.2]])]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    clip_each(parameters, 1.0)
    for model in range(2):
        expected = [nn.Parameter(torch.zeros_like(g[model])) for g in gradients]
        for parameter, gradient in zip(expected, gradients, strict=True):
            parameter.grad = gradient[model].clone()
        nn.utils.clip_grad_norm_(expected, 1.0)
        for parameter, other in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad[model], other.grad)  # type: ignore[index]


def loss(name: str, **options: Any) -> Component:
    return Component(name=name, **options)


STUDENTS = [
    Student(0, 1, loss("kd", temperature=2.0)),
    Student(5, 0, loss("ttm", temperature=3.0), ce_weight=0.0, distill_weight=1.0),
    Student(0, 0, loss("dkd"), ce_weight=0.5, distill_weight=0.25),
    Student(5, 1, loss("kd", temperature=2.0), ce_weight=1.0, distill_weight=0.0),
    Student(2, 1, loss("dist")),
    Student(2, 1, loss("ptloss", coefficients=[0.5, -0.1])),
    Student(0, 0, loss("wttm", temperature=2.0)),
    Student(5, 0, loss("standardized_kd")),
]


@pytest.mark.parametrize("transfer", [None, 100])
def test_students_train_as_alone(transfer: int | None, tmp_path: Path) -> None:
    recipe = distill_recipe(f"split.transfer={transfer or 'null'}", "training.clip_norm=2.0")
    table = torch.randn(2, 1797, 10, generator=torch.Generator().manual_seed(1)) * 2
    result = distill_stack(recipe, STUDENTS, table, tmp_path / "stack")
    alone = [tmp_path / str(number) for number in range(len(STUDENTS))]
    results = [
        distill(
            recipe.model_copy(
                update={name: getattr(s, name) for name in ("seed", "loss", "ce_weight", "distill_weight")}
            ),
            folder,
            teacher=Lookup(table[s.teacher]),
        )
        for s, folder in zip(STUDENTS, alone, strict=True)
    ]
    assert_same_members(tmp_path / "stack", result, alone, results)


def test_one_seed_shares_its_inputs(tmp_path: Path) -> None:
    table = torch.randn(1, 1797, 10)
    students = [Student(4, 0, loss("kd")), Student(4, 0, loss("ttm", temperature=2.0))]
    distill_stack(distill_recipe(), students, table, tmp_path / "stack")
    distill(distill_recipe("seed=4"), tmp_path / "alone", teacher=Lookup(table[0]))
    assert_close(member_state(weights(tmp_path / "stack"), 0), weights(tmp_path / "alone"), 1e-5)


def test_a_member_loads_alone(tmp_path: Path) -> None:
    teach(teach_recipe("training.epochs=1"), tmp_path / "run", seeds=[0, 1])
    path = tmp_path / "run" / "last.safetensors"
    model, _ = load_model(path, member=1)
    assert_close(dict(model.state_dict()), member_state(weights(tmp_path / "run"), 1), 0)
    with pytest.raises(InputError, match="stack of 2 models; say which member"):
        load_model(path)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_is_refused(p: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be trained as a stack: models with dropout cannot be stacked"):
        teach(teach_recipe(f"model.dropout={p}"), tmp_path / "run", seeds=[0, 1])
    assert not (tmp_path / "run").exists()


def test_architectures_may_not_differ() -> None:
    with pytest.raises(ValueError, match="one architecture"):
        Stack([nn.Linear(2, 2), nn.Linear(2, 3)])


def test_another_stack_in_the_folder_is_refused(tmp_path: Path) -> None:
    table = torch.randn(2, 1797, 10)
    first = [Student(0, 0, loss("kd")), Student(1, 0, loss("kd"))]
    distill_stack(distill_recipe("training.epochs=1"), first, table, tmp_path / "run")
    again = distill_stack(distill_recipe("training.epochs=1"), first, table, tmp_path / "run")
    assert again["members"] == 2
    for other in ([first[0], Student(1, 1, loss("kd"))], [first[0], Student(1, 0, loss("ttm", temperature=2.0))]):
        with pytest.raises(InputError, match="holds another stack: member 1 is"):
            distill_stack(distill_recipe("training.epochs=1"), other, table, tmp_path / "run")
    with pytest.raises(InputError, match="holds a stack of 2 models, not a stack of 1 models"):
        distill_stack(distill_recipe("training.epochs=1"), first[:1], table, tmp_path / "run")
    with pytest.raises(InputError, match="holds a stack of 2 models, not a single model"):
        distill(distill_recipe("training.epochs=1"), tmp_path / "run", teacher=Lookup(table[0]))


@pytest.mark.parametrize(
    ("shape", "teacher", "sentence"),
    [
        ((1, 1797, 9), 0, r"table has shape \(1, 1797, 9\); give \(teachers, 1797, 10\)"),
        ((1797, 10), 0, r"table has shape \(1797, 10\)"),
        ((1, 1797, 10), 1, "student 0 learns from teacher 1, but the table holds teachers 0 to 0"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(shape: tuple[int, ...], teacher: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        distill_stack(distill_recipe(), [Student(0, teacher, loss("kd"))], torch.zeros(shape))


def test_no_students_are_refused() -> None:
    with pytest.raises(InputError, match="there are no students"):
        distill_stack(distill_recipe(), [], torch.zeros(1, 1797, 10))
