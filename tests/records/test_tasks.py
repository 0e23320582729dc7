"""Targets of a record in a task: losses by name take them, whoever needs all classes says so."""

from functools import partial

import pytest
import torch
from torch import nn

from losses.oracles import random_batch
from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses.targets import Targets
from preceptor.records import Dense, Sampled, TopK
from preceptor.schema import Temperature
from preceptor.tasks import DistillTask, Transformed
from preceptor.tasks.criterion import of_loss
from preceptor.tasks.stack import Stack
from records.test_losses import C, stored

_, TEACHER, LABELS = random_batch(8, C)
BATCH = {"input": torch.randn(8, 3), "label": LABELS, "mask": torch.tensor([True] * 6 + [False] * 2)}


def teacher(form):
    return lambda batch: stored(form, TEACHER.log_softmax(-1).float(), LABELS)


@pytest.mark.parametrize("form", [Dense(), TopK(C - 1, "float32")], ids=str)
@pytest.mark.parametrize("name", ["kd", "ttm", "wttm", "dkd"])
def test_a_task_learns_from_targets_what_it_learns_from_logits(form, name):
    student = nn.Linear(3, C)
    loss = partial(getattr(losses, name), temperature=2.0)
    expected = DistillTask(student, lambda batch: TEACHER.float(), loss)(BATCH)
    found = DistillTask(student, teacher(form), loss)(BATCH)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)
    found["loss"].backward()


def test_who_needs_all_classes_says_so():
    student = nn.Linear(3, C)
    sampled = teacher(Sampled(3))

    def mine(student_logits, teacher_logits, *, mask=None):
        return (student_logits - teacher_logits).square().mean(-1)

    with pytest.raises(
        InputError, match="the loss 'mine' needs the teacher's outputs for all classes; record the form"
    ):
        DistillTask(student, sampled, mine)(BATCH)
    assert DistillTask(student, teacher(Dense()), mine)(BATCH)["loss"].isfinite()
    with pytest.raises(InputError, match="dist correlates"):
        DistillTask(student, sampled, losses.dist)(BATCH)
    with pytest.raises(InputError, match="the mean of several teachers needs"):
        DistillTask(student, [sampled, sampled], losses.kd)(BATCH)
    with pytest.raises(InputError, match="a transform needs"):
        Transformed(sampled, Temperature(temperature=2.0))(BATCH)
    with pytest.raises(InputError, match="the teacher has 12 classes and the student 5"):
        DistillTask(nn.Linear(3, 5), sampled, losses.kd)(BATCH)


def test_a_stack_needs_all_classes():
    members = [nn.Linear(3, C) for _ in range(2)]
    stack = Stack(members)
    batch = {name: torch.stack([each, each]) for name, each in BATCH.items()}

    def both(batch) -> Targets:
        one = stored(TopK(3), TEACHER.log_softmax(-1).float(), LABELS)
        return one[torch.arange(8).expand(2, 8)]

    groups = [([0, 1], of_loss(partial(losses.kd, temperature=2.0)))]
    weight = torch.ones(2)
    task = DistillTask(stack, both, groups, ce_weight=weight, distill_weight=weight)
    with pytest.raises(InputError, match="a stack of students needs"):
        task(batch)
