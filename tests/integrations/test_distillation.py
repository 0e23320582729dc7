"""A `Distillation` in a plain loop: what counts, who is asked with what, and where it is kept."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import preceptor
from integrations.test_timm import CLIP, IMAGENET, network
from integrations.toys import kd_formula
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.integrations import Distillation
from preceptor.integrations.timm import timm_teacher
from preceptor.training.teachers.preprocessing import with_own_inputs


def outputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher, and labels of which some do not count."""
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(*shape, generator=generator) for _ in range(2))
    labels = torch.randint(shape[-1], shape[:-1], generator=generator)
    labels.view(-1)[::3] = -100
    return student.requires_grad_(), teacher, labels


@pytest.mark.parametrize("shape", [(7, 4), (3, 5, 4)])
def test_what_is_labelled_minus_100_counts_for_neither_loss(shape: tuple[int, ...]) -> None:
    student, teacher, labels = outputs(*shape)
    counts = labels != -100
    teacher[~counts] = float("nan")
    found = Distillation(nn.Identity(), temperature=3.0, ce_weight=0.4, distill_weight=2.0)(teacher, student, labels)
    ce = F.cross_entropy(student[counts], labels[counts])
    distill = kd_formula(student[counts], teacher[counts], 3.0).mean()
    torch.testing.assert_close(found["ce"], ce.detach())
    torch.testing.assert_close(found["distill"], distill.detach())
    torch.testing.assert_close(found["loss"], 0.4 * ce + 2.0 * distill)
    mine, plain = (torch.autograd.grad(each, student)[0] for each in (found["loss"], 0.4 * ce + 2.0 * distill))
    torch.testing.assert_close(mine, plain)


def test_micro_batches_add_up_to_the_step_by_its_count() -> None:
    student, teacher, labels = outputs(9, 4)
    distillation = Distillation(nn.Identity(), "wttm", temperature=3.0)
    whole = distillation(teacher, student, labels)["loss"]
    count = (labels != -100).sum()
    cut = zip(teacher.split(4), student.split(4), labels.split(4), strict=True)
    parts = [distillation(*each, count)["loss"] for each in cut]
    torch.testing.assert_close(sum(parts), whole)


def test_a_batch_that_counts_nothing_has_no_loss_and_no_gradient() -> None:
    student, teacher, labels = outputs(4, 3)
    found = Distillation(nn.Identity())(teacher, student, torch.full_like(labels, -100))
    found["loss"].backward()
    assert found["loss"] == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_labels_are_not_looked_at_where_they_weigh_nothing() -> None:
    student, teacher, labels = outputs(4, 3)
    distillation = Distillation(nn.Identity(), ce_weight=0.0)
    found = [distillation(teacher, student, labels.clamp(min=0) + more) for more in (0, 100)]
    assert torch.equal(found[0]["loss"], found[1]["loss"])
    assert "ce" not in found[0]


class Named(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left - right


def test_a_module_is_called_with_the_columns_that_it_names() -> None:
    left, right = torch.randn(2, 3), torch.randn(2, 3)
    columns = {"left": left, "right": right, "more": left, "labels": torch.zeros(2)}
    for teacher in (Named(), lambda batch: batch["left"] - batch["right"]):
        assert torch.equal(Distillation(teacher).ask(columns, left.device), left - right)
    half = Distillation(nn.Sequential(nn.Linear(3, 3)).bfloat16())
    assert half.ask({"pixel_values": left, "more": right}, left.device).dtype == torch.bfloat16


def test_it_is_no_part_of_the_model_that_has_it() -> None:
    model: Any = nn.Linear(2, 3)
    model.distillation = Distillation(nn.Linear(2, 3), label_loss=nn.CrossEntropyLoss(torch.ones(3), reduction="none"))
    assert list(model.state_dict()) == ["weight", "bias"]
    assert len(list(model.parameters())) == 2
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        parts = other.distillation(torch.ones(1, 2), other(torch.ones(1, 2)), torch.tensor([1]))
        assert parts["loss"].isfinite()


class Remembering(nn.Module):
    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None: ...

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor) -> Tensor:
        return mask.float()


class Learning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor) -> Tensor:
        return mask * self.scale


@pytest.mark.parametrize(
    ("loss", "said"), [(Remembering(), "a method observe"), (Learning(), "parameters"), ("SoTeacher", "no loss called")]
)
def test_a_loss_that_needs_a_loop_of_ours_is_refused_at_once(loss: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Distillation(nn.Identity(), loss, num_classes=3)


def test_a_teacher_of_timm_is_given_its_own_inputs_by_our_trainer_too() -> None:
    model = network(1, **CLIP).eval()
    pixels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (pixels - mean) / std
    samples = [{"input": image, "label": row % 5} for row, image in enumerate(images)]
    said = {"divide_by": 255.0, "mean": list(IMAGENET["mean"]), "std": list(IMAGENET["std"])}
    data = Data(samples, samples, class_names=tuple("abcde"), preprocessing=said)  # type: ignore[arg-type]
    teacher = with_own_inputs(preceptor.tasks.as_teacher(timm_teacher(model)), data)
    mean, std = (torch.tensor(CLIP[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(teacher({"input": images}), model((pixels - mean) / std), rtol=1e-4, atol=1e-5)
