"""An optimizer, a scheduler, parameter groups and callbacks of one's own; and more epochs of a finished run."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau
from typer.testing import CliRunner

import preceptor
from preceptor import runs
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.losses import kd
from preceptor.recipe import Optimizer
from preceptor.tasks import DistillTask, Stack
from preceptor.training.optim.optimizers import layers_of, parameter_groups, scaled
from preceptor.training.optim.schedule import make_optimizer
from training.test_students_side import QUICK, TEACHER, assert_same, distill, make_student, refused
from training.toys import RECIPE, metrics, snapshot, stopped_at, teach_recipe, weights

STEPS = 6  # two epochs of 96 samples in 32s


# -- optimizers --------------------------------------------------------------------------------------------------------


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01, amsgrad=True)


def test_an_own_optimizer_and_scheduler_are_what_a_loop_would_make_of_them(tmp_path: Path) -> None:
    """By object, by name, and of ours where they are the same."""
    named = {"name": "torch.optim:SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    distill(tmp_path / "ours")
    distill(tmp_path / "named", optimizer=named, lr=0.1)
    distill(tmp_path / "object", optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), lr=0.05)
    cosine = partial(lambda optimizer, steps: CosineAnnealingLR(optimizer, steps))
    distill(tmp_path / "scheduler", scheduler=cosine)
    for name in ("named", "object", "scheduler"):
        for key, tensor in weights(tmp_path / "ours").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], tensor, rtol=1e-5, atol=1e-6)
    said = {"name": "torch.optim.lr_scheduler:CosineAnnealingLR", "T_max": STEPS}
    distill(tmp_path / "named scheduler", schedule=said)
    assert_same(tmp_path / "scheduler", tmp_path / "named scheduler")
    assert runs.read_objects(tmp_path / "object")["optimizer"].startswith("torch.optim.sgd:SGD")  # type: ignore[index]


SCHEDULERS: dict[str, Any] = {
    "one cycle": lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.1, total_steps=steps),
    "multi step": lambda optimizer, steps: MultiStepLR(optimizer, [2, 4]),
    "lambda": lambda optimizer, steps: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
}


def test_an_optimizer_that_counts_its_steps_in_a_group_resumes(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"optimizer": {"name": "timm.optim:Lamb"}, "training": {"checkpoint_every": 1}}
    schedule = {"name": "transformers:get_linear_schedule_with_warmup", "num_warmup_steps": 2}  # asks for all steps
    distill(tmp_path / "whole", **keywords, schedule=schedule)
    with stopped_at(4):
        distill(tmp_path / "broken", **keywords, schedule=schedule)
    distill(tmp_path / "broken", **keywords, schedule=schedule)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    assert metrics(tmp_path / "whole")[-1]["lr"] == 0.0


@pytest.mark.parametrize("scheduler", ["one cycle", "multi step"])
def test_an_own_optimizer_and_scheduler_resume(scheduler: str, tmp_path: Path) -> None:
    keywords: dict[str, Any] = {
        "optimizer": adam,
        "scheduler": SCHEDULERS[scheduler],
        "training": {"checkpoint_every": 1, "clip_norm": 1.0},
        "average": {"decay": 0.9},
        "lr": 0.05,
    }
    distill(tmp_path / "whole", **keywords)
    for step in (1, 4):
        with stopped_at(step):
            distill(tmp_path / "broken", **keywords)
    distill(tmp_path / "broken", **keywords)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    rates = [line["lr"] for line in metrics(tmp_path / "whole")]
    assert rates[0] != rates[1]


class Forgetful(torch.optim.SGD):
    """It keeps its count where no checkpoint looks."""

    count = 0

    def step(self, closure: Any = None) -> None:
        self.count += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= parameter.grad / self.count


class Keeping(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        self.state[self.param_groups[0]["params"][0]]["seen"] = {1, 2}


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"optimizer": lambda p: Forgetful(p, lr=1.0)}, ["does not go on from its state", "state_dict()"]),
        ({"optimizer": lambda p: Keeping(p, lr=1.0)}, ["cannot be stepped and saved", "give another"]),
        ({"optimizer": lambda p: torch.optim.LBFGS(p)}, ["cannot be stepped and saved"]),
        ({"optimizer": lambda p: None}, ["is a NoneType", "torch.optim.Optimizer"]),
        ({"optimizer": lambda p: torch.optim.SGD(p[:1], lr=1.0)}, ["does not hold the parameters"]),
        ({"optimizer": 3}, ["is a int", "torch.optim.Adam(p, lr=1e-3)"]),
        ({"optimizer": adam, "lr": 0.2}, ["optimizer.lr is 0.2", "leave one out"]),
        ({"optimizer": {"name": "torch.optim:Adam", "lrr": 1}}, ["unknown key 'optimizer.lrr'"]),
        ({"optimizer": {"name": "torch.optim:Adamm"}}, ["no callable 'Adamm'", "'Adam'"]),
        ({"optimizer": {"name": "torch.optim:Adam", "betas": 3}}, ["refuses the parameters or its options"]),
        ({"optimizer": {"name": "torch.optim:Rprop", "no_decay": ["norms"]}}, ["has no weight_decay"]),
        ({"optimizer": {"rates": {"hed.*": 2.0}}}, ["'hed.*', which fits no parameter"]),
        ({"optimizer": {"rates": {"*": 1.0, "3.*": 2.0}}}, ["'3.*', all of whose parameters an earlier pattern fits"]),
        ({"scheduler": lambda o, n: ReduceLROnPlateau(o)}, ["waits for a score", "training.patience"]),
        ({"scheduler": lambda o: 3}, ["refuses the optimizer or its options"]),
        ({"scheduler": lambda o, n: 3}, ["without step()"]),
        ({"scheduler": SCHEDULERS["lambda"], "schedule": {"name": "constant"}}, ["schedule.name is 'constant'"]),
        ({"schedule": {"name": "torch.optim.lr_scheduler:StepLR"}}, ["refuses", "step_size"]),
    ],
)
def test_an_optimizer_or_scheduler_that_cannot_be(keywords: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    refused(lambda: distill(tmp_path / "run", **({"lr": 0.05} | keywords)), *parts)
    assert not (tmp_path / "run").exists()


def test_an_own_optimizer_of_a_stack_is_refused() -> None:
    call = partial(preceptor.teach, model=make_student, seeds=[0, 1], **QUICK | {"lr": 0.05})
    refused(lambda: call(optimizer=adam), "one by one")


# -- groups ------------------------------------------------------------------------------------------------------------


def rates_and_decays(model: nn.Module, groups: list[Any]) -> dict[str, tuple[float, float]]:
    """By parameter, its multiple of the rate and its decay in a real optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(scaled(groups, 1.0), Optimizer(lr=1.0, weight_decay=0.1))
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_layer_decay_and_no_decay_are_timms() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=3)
    expected = {}
    for group in param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.75, no_weight_decay_list=()):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        expected |= {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for p in group["params"]}
    recipe = Optimizer(layer_decay=0.75, no_decay=("norms", "biases"))
    found = rates_and_decays(model, parameter_groups(model, {}, recipe))
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(each) for name, each in expected.items())


def test_layers_of_a_model_without_a_map() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
            self.blocks = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.Linear(2, 2))
            self.head = nn.Linear(2, 2)

    found = layers_of(Net())
    assert [found[name] for name in ("stem.weight", "norm.weight", "blocks.0.0.weight", "blocks.0.1.bias",
                                     "blocks.1.bias", "head.weight")] == [0, 0, 1, 1, 2, 3]  # fmt: skip
    recipe = Optimizer(layer_decay=0.5, rates={"head.*": 10.0, "*.bias": 2.0}, no_decay=("norms",))
    by_name = rates_and_decays(model := Net(), parameter_groups(model, {}, recipe))
    assert by_name["head.bias"] == (10.0, 0.1)  # the first pattern that fits counts
    assert by_name["stem.bias"] == (2 * 0.5**3, 0.1)
    assert by_name["norm.bias"] == (2 * 0.5**3, 0.0)
    stack = Stack([make_student(3), make_student(3)])
    recipe = Optimizer(no_decay=("norms", "biases"))
    spared = [p for g in parameter_groups(stack, {}, recipe) if "weight_decay" in g for p in g["params"]]
    assert len(spared) == 4  # two biases, and the norm's two


def test_groups_train_as_groups_of_torch_do(tmp_path: Path) -> None:
    grouping: dict[str, Any] = {"no_decay": ["norms", "biases"], "rates": {"3.*": 10.0}}
    keywords = {"optimizer": {"lr": 0.02, "weight_decay": 0.3, **grouping}, "lr": 0.02, "seed": 3}
    distill(tmp_path / "ours", **keywords)

    def by_hand(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Of Linear, LayerNorm and Linear: weight and bias each."""
        decayed = [{"params": [parameters[0]]}, {"params": [parameters[4]], "lr": 0.2}]
        spared = [{"params": parameters[1:4], "weight_decay": 0.0},
                  {"params": [parameters[5]], "weight_decay": 0.0, "lr": 0.2}]  # fmt: skip
        return torch.optim.SGD([*decayed, *spared], lr=0.02, momentum=0.9, weight_decay=0.3)

    distill(tmp_path / "hand", **keywords | {"optimizer": by_hand, "lr": 0.05})
    assert_same(tmp_path / "ours", tmp_path / "hand")
    plain = {"optimizer": partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.3), "lr": 0.05}
    distill(tmp_path / "plain", **keywords | plain)
    assert not torch.equal(weights(tmp_path / "plain")["3.weight"], weights(tmp_path / "ours")["3.weight"])


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Diary:
    """Writes down what it is called with; stops or fails where it is told to."""

    def __init__(self, *, stop: Any = None, fail: Any = None) -> None:
        self.seen: list[Any] = []
        self.stop, self.fail = stop, fail

    def on_epoch_end(self, epoch: int, scores: Any) -> Any:
        return self._called("epoch", epoch, scores["brier"])

    def on_step_end(self, step: int, steps: int) -> Any:
        return self._called("step", step, steps)

    def _called(self, *what: Any) -> Any:
        self.seen.append(what)
        if what[:2] == self.fail:
            raise ZeroDivisionError("by me")
        return "stop" if what[:2] == self.stop else None


def test_callbacks_see_steps_and_epochs_and_change_nothing(tmp_path: Path) -> None:
    diary = Diary()
    distill(tmp_path / "with", callbacks=[diary])
    distill(tmp_path / "without")
    assert snapshot(tmp_path / "with") == snapshot(tmp_path / "without")
    assert [what[:2] for what in diary.seen] == [
        ("step", 1), ("step", 2), ("step", 3), ("epoch", 1), ("step", 4), ("step", 5), ("step", 6), ("epoch", 2),
    ]  # fmt: skip
    assert diary.seen[3][2] == metrics(tmp_path / "with")[0]["heldout"]["brier"]


@pytest.mark.parametrize(("stop", "epochs", "steps"), [(("epoch", 1), 1, 3), (("step", 4), 2, 4)])
def test_a_callback_stops(stop: Any, epochs: int, steps: int, tmp_path: Path) -> None:
    result = distill(tmp_path / "run", callbacks=[Diary(stop=stop)], epochs=5)
    assert result["stopped"] == {"epochs": epochs, "by": "callback"}
    assert metrics(tmp_path / "run")[-1]["step"] == steps
    assert len(metrics(tmp_path / "run")) == epochs
    assert preceptor.load(tmp_path / "run", model=make_student)(torch.zeros(1, 4)).isfinite().all()
    assert distill(tmp_path / "run", epochs=5) == result  # it is complete


@pytest.mark.parametrize("fail", [("epoch", 1), ("step", 2), ("epoch", 2)])
def test_a_callback_that_fails_leaves_a_run_that_goes_on(fail: Any, tmp_path: Path) -> None:
    refused(lambda: distill(tmp_path / "run", callbacks=[Diary(fail=fail)]), "Diary.on_", "by me", "goes on from there")
    distill(tmp_path / "run")
    distill(tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_callbacks_that_cannot_be() -> None:
    refused(lambda: distill(callbacks=Diary()), "give a list of objects")
    refused(lambda: distill(callbacks=[Diary]), "the callback is the class Diary; give one that is made")
    refused(lambda: distill(callbacks=[print]), "neither on_step_end nor on_epoch_end")


# -- more epochs -------------------------------------------------------------------------------------------------------

CONSTANT: dict[str, Any] = {"schedule": {"name": "constant"}, "average": {"decay": 0.9}}


def test_more_epochs_are_those_of_a_longer_run(tmp_path: Path) -> None:
    """Where the schedule does not depend on its length: weights, best, average and scores, bit for bit."""
    distill(tmp_path / "whole", **CONSTANT, epochs=4)
    distill(tmp_path / "two", **CONSTANT, epochs=2)
    before = {path: path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file()}
    more: Any = {"teacher": None, "model": make_student, "data": QUICK["data"], "more_epochs": 2}
    again = partial(preceptor.distill, tmp_path / "two", tmp_path / "four", **more | {"teacher": nn.Linear(4, 3)})
    refused(again, "another teacher")
    again = partial(preceptor.distill, tmp_path / "two", tmp_path / "four", **more | {"teacher": TEACHER})
    with stopped_at(8):
        again()
    result = again()
    assert_same(tmp_path / "four", tmp_path / "whole")
    assert result["best_epoch"] == runs.read_result(tmp_path / "whole")["best_epoch"]
    assert metrics(tmp_path / "four") == metrics(tmp_path / "whole")[2:]
    assert {path: path.read_bytes() for path in before} == before
    recipe = runs.read_recipe(tmp_path / "four")
    assert (recipe.parent, recipe.training.epochs) == (tmp_path / "two", 4)
    assert again() == result


def test_what_may_differ_from_a_parent(tmp_path: Path) -> None:
    teach = partial(preceptor.teach, model=make_student, data=QUICK["data"])
    preceptor.teach(model=make_student, folder=tmp_path / "a", **QUICK)
    refused(lambda: teach(tmp_path / "a", more_epochs=1, batch_size=16), "training.batch_size is 32 there and 16 here")
    refused(lambda: teach(tmp_path / "a", more_epochs=0), "whole number of at least 1")
    refused(lambda: teach("teach-digits", more_epochs=1), "no folder")
    refused(lambda: preceptor.distill(tmp_path / "a", more_epochs=1), "is one of teach")
    teach(tmp_path / "a", tmp_path / "b", more_epochs=1, schedule={"name": "constant"}, lr=0.01)
    assert [line["lr"] for line in metrics(tmp_path / "b")] == [0.01]
    teach(tmp_path / "b", tmp_path / "c", more_epochs=1, scheduler=SCHEDULERS["lambda"], schedule={"name": "cosine"})
    refused(lambda: teach(tmp_path / "b" / "recipe.yaml", epochs=2, folder=tmp_path / "d"), "has trained 2 epochs")
    newest = next((tmp_path / "a" / "checkpoints").iterdir()) / "state.json"
    newest.write_text(newest.read_text().replace('"step": 6', '"step": 5').replace('"sha256": "', '"sha256": "0'))
    refused(lambda: teach(tmp_path / "b" / "recipe.yaml", tmp_path / "b"), "its last checkpoint has changed")


def test_more_epochs_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preceptor.teach(teach_recipe("schedule.name=constant"), tmp_path / "runs" / "a")
    called = CliRunner().invoke(app, ["teach", "runs/a", "--more-epochs", "1"])
    assert called.exit_code == 0, called.output
    preceptor.teach({**RECIPE, "schedule": {"name": "constant"}}, tmp_path / "whole", epochs=3)
    assert_same(tmp_path / "runs" / "a-3", tmp_path / "whole")
    called = CliRunner().invoke(app, ["teach", "teach-digits", "--more-epochs", "1"])
    assert called.exit_code == 2
    assert "no folder" in called.output


def test_code_that_a_parent_names_is_not_imported_unasked(tmp_path: Path) -> None:
    named = f"{__name__}:per_example_label"
    preceptor.teach(folder=tmp_path / "a", model=make_student, objective=named, **QUICK)
    more = partial(preceptor.teach, tmp_path / "a", model=make_student, data=QUICK["data"], more_epochs=1)
    refused(more, "names code", named, "trust=True")
    results = [more(trust=True), more(trust=[named]), more(objective=named)]
    assert results[0]["heldout"] == results[1]["heldout"] == results[2]["heldout"]


def test_a_run_that_was_stopped_goes_on_from_there(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"model": make_student, **QUICK, "schedule": {"name": "constant"}}
    preceptor.teach(folder=tmp_path / "a", **keywords | {"epochs": 9}, callbacks=[Diary(stop=("epoch", 2))])
    preceptor.teach(tmp_path / "a", tmp_path / "b", more_epochs=1, model=make_student, data=QUICK["data"])
    preceptor.teach(folder=tmp_path / "whole", **keywords | {"epochs": 3})
    assert_same(tmp_path / "b", tmp_path / "whole")


# -- side by side ------------------------------------------------------------------------------------------------------


def test_students_side_by_side_become_what_they_are_alone(tmp_path: Path) -> None:
    students: dict[str, dict[str, Any]] = {
        "own": {"optimizer": adam, "scheduler": SCHEDULERS["lambda"], "label_loss": per_example_label},
        "weighted": {"label_loss": {"name": "focal", "class_weights": "balanced"}, "select": "macro_f1", "lr": 0.1},
        "stopped": {"epochs": 5, "patience": 1, "select": never_better, "maximize": True, "lr": 0.1},
        "called": {"callbacks": [Diary(stop=("epoch", 1))], "lr": 0.1},
        "failing": {"callbacks": [Diary(fail=("step", 2))], "lr": 0.1},
    }
    common = {name: value for name, value in QUICK.items() if name != "lr"} | {"sampler": "balanced"}
    call = partial(preceptor.distill_together, None, students, tmp_path, teacher=TEACHER, model=make_student, **common)
    refused(call, "the student 'failing' was given up, and the others are complete", "by me")
    students["failing"] = {"lr": 0.1}
    results = call()
    assert results["stopped"]["stopped"] == {"epochs": 2, "by": "patience"}
    assert results["called"]["stopped"] == {"epochs": 1, "by": "callback"}
    for name, keywords in students.items():
        distill(tmp_path / f"{name} alone", **{"lr": 0.05} | keywords, sampler="balanced")
        assert_same(tmp_path / name, tmp_path / f"{name} alone")


def per_example_label(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def never_better(probabilities: Tensor, labels: Tensor) -> float:
    return 1.0


# -- a criterion's own parameters --------------------------------------------------------------------------------------


class Mapped(nn.Module):
    """A loss with a linear map of its own, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.map, self.shift = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return (self.map(student_logits) + self.shift - teacher_logits).square().mean(-1)


def test_a_loss_has_rates_of_its_own(tmp_path: Path) -> None:
    """One step of plain gradient descent: the parts move by their multiple of what they would move by otherwise."""
    one_step: dict[str, Any] = {
        "epochs": 1, "batch_size": 500, "optimizer": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup_epochs": 0}, "lr": 0.1,
    }  # fmt: skip

    def moved(rates: dict[str, float]) -> dict[str, Tensor]:
        loss, start = Mapped(), Mapped().state_dict()
        optimizer = {**one_step["optimizer"], "rates": rates}
        distill(tmp_path / str(len(list(tmp_path.iterdir()))), loss=loss, **(one_step | {"optimizer": optimizer}))
        return {name: value - start[name] for name, value in loss.state_dict().items()}

    plain, slow = moved({}), moved({"loss.map.*": 0.25, "loss.shift": 2.0})
    assert plain["map.weight"].norm() > 1e-4
    for name, multiple in (("map.weight", 0.25), ("map.bias", 0.25), ("shift", 2.0)):
        torch.testing.assert_close(slow[name], multiple * plain[name], rtol=1e-4, atol=1e-7)


def test_parts_are_called_by_their_loss_where_several_have_some() -> None:
    task = DistillTask(nn.Linear(3, 3), nn.Linear(3, 3), [(Mapped(), 1.0), (kd, 1.0)])
    assert [*task.parts] == ["loss.shift", "loss.map.weight", "loss.map.bias"]
    other = type("Other", (Mapped,), {})
    several = DistillTask(nn.Linear(3, 3), nn.Linear(3, 3), [(Mapped(), 1.0), (other(), 1.0)])
    assert {name.rpartition(".")[0] for name in several.parts} == {
        "loss.Mapped", "loss.Mapped.map", "loss.Other", "loss.Other.map",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"optimizer.rates names 'loss.mop.\*', which fits no parameter; did you mean"):
        distill(None, loss=Mapped(), optimizer={"rates": {"loss.mop.*": 0.1}})
    with pytest.raises(InputError, match=r"optimizer.rates names 'loss.\*', which fits no parameter"):
        distill(None, loss="kd", optimizer={"rates": {"loss.*": 0.1}})


def test_no_decay_reaches_the_parts_of_a_loss() -> None:
    """A regressor's biases and batch norms, as the model's."""

    class Hint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.bn = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

    for kinds, spared in ((("norms",), {"bn.weight", "bn.bias"}), (("biases",), {"map.bias", "bn.bias"})):
        model, hint = nn.Linear(2, 3), Hint()
        parts = {f"loss.{name}": each for name, each in hint.named_parameters()}
        groups = parameter_groups(model, parts, Optimizer(no_decay=kinds), nn.ModuleList([hint]))
        bare = {id(p) for g in groups if g.get("weight_decay") == 0.0 for p in g["params"]}  # type: ignore[union-attr]
        assert {name for name, each in hint.named_parameters() if id(each) in bare} == spared
        assert sum(len(g["params"]) for g in groups) == 6  # type: ignore[call-overload]
