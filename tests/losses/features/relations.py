"""What the tests of losses share that compare samples of a batch: random features, checks that each must pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from losses.oracles import value_and_grad
from preceptor.losses.features.base import FeatureLoss, Setting

SETTING = Setting(num_samples=40, num_classes=4, labels=torch.arange(40) % 4)
Loss = Callable[..., Tensor]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def built(
    loss: FeatureLoss, student: Tensor, teacher: Tensor, setting: Setting = SETTING, seed: int = 0
) -> FeatureLoss:
    """Built as a run builds it, in the precision of the student's features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss.build({"s": student}, {"t": teacher}, setting)
    return loss.to(student.dtype)


def call(loss: FeatureLoss, student: Tensor, teacher: Tensor, **more: Any) -> Tensor:
    logits = torch.zeros(len(student), 4)
    return loss(logits, logits, student_features={"s": student}, teacher_features={"t": teacher}, **more)


class _Sizes(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                # A view of few numbers that looks like many takes no memory.
                self.largest = max(self.largest, each.untyped_storage().nbytes() // each.element_size())
        return result


def largest_tensor(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    """The most numbers that any tensor holds on the way to the loss and back to its gradient."""
    with _Sizes() as sizes:
        value_and_grad(loss, student, teacher)
    return sizes.largest


def check_a_batch_of_one(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    value, grad = value_and_grad(loss, student[:1], teacher[:1])
    assert value == 0
    assert (grad == 0).all()


def check_dead_features(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    """Finite where a ReLU has let nothing through, of some samples or of all."""
    for dead_student, dead_teacher in ((student * 0, teacher), (student, teacher * 0), (student * 0, teacher * 0)):
        value, grad = value_and_grad(loss, dead_student, dead_teacher)
        assert value.isfinite().all()
        assert grad.isfinite().all()
    some = student.clone()
    some[:2] = 0
    value, grad = value_and_grad(loss, some, teacher)
    assert value.isfinite().all()
    assert grad.isfinite().all()


def check_half_precision(loss: Loss, student: Tensor, teacher: Tensor, dtype: torch.dtype) -> None:
    """Computed in single precision, of what half precision says, also where autocast is on."""
    student, teacher = student.to(dtype), teacher.to(dtype)
    exact = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact.detach(), rtol=1e-5, atol=1e-7)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


def check_no_gradient_to_the_teacher(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    teacher = teacher.clone().requires_grad_()
    student = student.clone().requires_grad_()
    loss(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def check_order_of_samples(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    order = torch.randperm(len(student), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))
