"""Tasks in somebody else's loop, and criteria with parameters, memory and features of their own."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses import dkd, kd, wttm
from preceptor.runs.files import load_tensors
from preceptor.schema import Component
from preceptor.tasks import DistillTask, Lookup, TeachTask, of_loss, of_objective
from preceptor.tasks.taps import Taps
from preceptor.training import distill, distill_stack, teach
from preceptor.training.verbs import Student
from training.toys import assert_close, distill_recipe, metrics, snapshot, stopped_at, teach_recipe, weights


def batch(size: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"input": torch.randn(size, 4, generator=generator), "label": torch.arange(size) % 3}


def test_a_loss_in_a_loop_of_ones_own() -> None:
    student, teacher, given = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    task = DistillTask(student, teacher, partial(wttm, temperature=4.0), ce_weight=1.0, distill_weight=3.0)
    output = task(given)
    logits, shown = student(given["input"]), teacher(given["input"]).detach()
    p = (shown / 4).log_softmax(-1)
    power = shown.softmax(-1).pow(1 / 4).sum(-1)
    by_hand = (
        F.cross_entropy(logits, given["label"])
        + 3 * (power * F.kl_div(logits.log_softmax(-1), p, log_target=True, reduction="none").sum(-1)).mean()
    )
    torch.testing.assert_close(output["loss"], by_hand)
    output["loss"].backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None


def test_an_objective_in_a_loop_of_ones_own() -> None:
    model, given = nn.Linear(4, 3), batch()
    given["mask"] = torch.tensor([True] * 4 + [False] * 2)
    given["label"][5] = -100  # padding may be anything
    loss = TeachTask(model, F_cross_entropy)(given)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(model(given["input"])[:4], given["label"][:4]))


def F_cross_entropy(logits: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none") * mask


def test_what_a_criterion_asks_for() -> None:
    assert of_loss(kd).needs == {"logits", "teacher_logits"}
    assert of_loss(dkd).needs == {"logits", "teacher_logits", "labels"}
    assert of_objective(F_cross_entropy).needs == {"logits", "labels"}
    assert of_loss(Hint(["0"], ["0"], 4, 4)).more == ("student_features", "teacher_features")


def test_an_index_that_is_not_there() -> None:
    class Remembering(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor, *, index: Tensor, mask: Tensor) -> Tensor:
            return logits.sum(-1)

    with pytest.raises(InputError, match="'Remembering' needs to know each sample again, and the batch has no 'index'"):
        TeachTask(nn.Linear(4, 3), Remembering())(batch())


# -- parameters of its own, and features -------------------------------------------------------------------------------


class Hint(nn.Module):
    """FitNets (arXiv 1412.6550): squared error of a learned linear map of the student's features to the teacher's."""

    def __init__(self, student_taps: list[str], teacher_taps: list[str], width: int, teacher_width: int) -> None:
        super().__init__()
        self.student_taps, self.teacher_taps = student_taps, teacher_taps
        self.map = nn.Linear(width, teacher_width)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        student_features: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
        mask: Tensor,
    ) -> Tensor:
        found = self.map(student_features[self.student_taps[0]])
        wanted = teacher_features[self.teacher_taps[0]]
        return (found - wanted).square().mean(-1) * mask


def net(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, classes))


def hint() -> Hint:
    torch.manual_seed(3)
    return Hint(["2"], ["2"], 5, 7)


def test_features_and_parameters_in_a_loop_of_ones_own() -> None:
    student, teacher, loss = net(5), net(7), hint()
    given = {"input": torch.randn(8, 1, 8, 8), "label": torch.arange(8)}
    task = DistillTask(student, teacher, loss, ce_weight=0.0, distill_weight=1.0)
    value = task(given)["loss"]
    by_hand = (loss.map(student[:3](given["input"])) - teacher[:3](given["input"])).square().mean()
    torch.testing.assert_close(value, by_hand)
    value.backward()
    assert loss.map.weight.grad is not None
    assert student[3].weight.grad is None or not student[3].weight.grad.any()
    assert not student[2]._forward_hooks  # nothing is left on anybody's model
    assert not teacher[2]._forward_hooks
    assert task.state is loss


def small(num_classes: int) -> nn.Module:
    return net(5, num_classes)


def test_a_criterions_parameters_are_trained_saved_resumed_and_no_part_of_the_student(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, recipe = net(7), distill_recipe("training.epochs=3", "optimizer.lr=0.05", "training.clip_norm=1.0")
    before = hint().map.weight.detach().clone()
    whole = hint()
    distill(recipe, tmp_path / "whole", teacher=teacher, model=small, loss=whole)
    assert not torch.equal(whole.map.weight, before)
    with stopped_at(4):
        distill(recipe, tmp_path / "run", teacher=teacher, model=small, loss=hint())
    resumed = hint()
    distill(recipe, tmp_path / "run", teacher=teacher, model=small, loss=resumed)
    assert torch.equal(resumed.map.weight, whole.map.weight)
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")
    assert set(weights(tmp_path / "run")) == set(net(5).state_dict())
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert "objective:map.weight" in load_tensors(newest / "state.safetensors")[0]
    losses = [line["train"]["distill"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_without_parameters_it_would_not_learn_the_same(tmp_path: Path) -> None:
    """The map's training matters: frozen, the student ends elsewhere."""
    torch.manual_seed(0)
    teacher, recipe, frozen = net(7), distill_recipe("training.epochs=2"), hint()
    frozen.map.requires_grad_(False)
    distill(recipe, tmp_path / "frozen", teacher=teacher, model=small, loss=frozen)
    distill(recipe, tmp_path / "free", teacher=teacher, model=small, loss=hint())
    with pytest.raises(AssertionError):
        assert_close(weights(tmp_path / "frozen"), weights(tmp_path / "free"), 1e-4)


@pytest.mark.parametrize(
    ("teacher", "loss", "sentence"),
    [
        (Lookup(torch.zeros(1797, 10)), hint(), "'Hint' needs features of the teacher, which only one live model"),
        ([net(7), net(7)], hint(), "needs features of the teacher, which only one live model can give"),
        (net(7), Hint(["2"], ["22"], 5, 7), "the teacher has no module '22' to tap; did you mean '2'"),
        (net(7), Hint(["conv"], ["2"], 5, 7), "the student has no module 'conv' to tap; known"),
    ],
)
def test_features_that_are_not_there(teacher: Any, loss: nn.Module, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        distill(distill_recipe(), tmp_path / "run", teacher=teacher, model=small, loss=loss)
    assert not (tmp_path / "run").exists()


def test_a_loss_with_parameters_in_a_stack() -> None:
    loss = Component(name=f"{__name__}:Scaled")
    with pytest.raises(InputError, match="has parameters or state of its own and cannot be trained in a stack"):
        distill_stack(distill_recipe(), [Student(0, 0, loss)], torch.zeros(1, 1797, 10))


class Scaled(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return self.scale * kd(student_logits, teacher_logits, mask=mask)


def test_an_objective_with_parameters_of_a_stack(tmp_path: Path) -> None:
    class Biased(nn.Module):
        """Cross-entropy with a learned bias, one for each model."""

        def bind(self, *, model: nn.Module, num_samples: int, num_classes: int, stack: tuple[int, ...] = ()) -> None:
            self.bias = nn.Parameter(torch.zeros(*stack, num_classes))

        def forward(self, logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
            log_q = (logits + self.bias.unsqueeze(-2)).log_softmax(-1)
            values = -log_q.gather(-1, labels[..., None]).squeeze(-1)
            return values if mask is None else torch.where(mask, values, 0.0)

    together, alone = Biased(), Biased()
    teach(teach_recipe("training.clip_norm=0.5"), tmp_path / "stack", seeds=[0, 1], objective=together)
    teach(teach_recipe("training.clip_norm=0.5", "seed=1"), tmp_path / "one", objective=alone)
    torch.testing.assert_close(together.bias[1], alone.bias, atol=1e-5, rtol=1e-4)
    assert alone.bias.detach().abs().max() > 0


def test_taps_see_what_a_module_gives() -> None:
    model = net(5)
    with Taps(model, ["1", "2"], "student") as features:
        out = model(torch.zeros(2, 64))
    torch.testing.assert_close(features["1"].tanh(), features["2"])
    torch.testing.assert_close(model[3](features["2"]), out)
