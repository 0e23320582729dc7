"""What every loss shares: checks of its inputs, working precision, clean masking, and KL in log space."""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ARE_WAITED_FOR = {"cuda"}


def refused(message: str) -> ValueError:
    """The error of a wrong input, imported where there is one: the losses bring nothing of ours with them."""
    from preceptor.errors import InputError

    return InputError(message)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive finite number (nan included)."""
    if not 0 < temperature < math.inf:
        raise refused(f"temperature is {temperature}; give a positive finite number (1.0 changes nothing).")


def check_floating(name: str, logits: Tensor) -> None:
    """Refuse logits that are no floating-point numbers."""
    if not logits.is_floating_point():
        raise refused(f"{name} are {logits.dtype}; give floating-point logits, e.g. {name}.float().")


def check_mask(mask: Tensor | None, shape: torch.Size) -> None:
    """Refuse a mask that is not one boolean per example: of another shape it would spread over several."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise refused(f"mask is {mask.dtype}; give a boolean one, True where the example counts.")
    if mask.shape != shape:
        raise refused(f"mask has shape {tuple(mask.shape)}; give one flag per example, {tuple(shape)}.")


def check_range(labels: Tensor, num_classes: int) -> None:
    """Refuse labels outside [0, num_classes), where they can be looked at for next to nothing.

    On a GPU that would wait for all work queued before; torch's own assertion speaks there.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or not labels.numel():
        return
    try:
        low, high = int(labels.min()), int(labels.max())
    except RuntimeError:  # under vmap there is no single value to look at
        return
    if low < 0 or high >= num_classes:
        raise refused(f"labels reach from {low} to {high}; give class numbers from 0 to {num_classes - 1}.")


def check_labels(labels: Tensor, shape: torch.Size) -> None:
    """Refuse labels that are not one class number per example."""
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise refused(f"labels are {labels.dtype}; give integer class indices, e.g. labels.long().")
    if labels.shape != shape:
        raise refused(f"labels have shape {tuple(labels.shape)}; give one per example, {tuple(shape)}.")


def target_of(labels: Tensor, mask: Tensor | None, num_classes: int) -> Tensor:
    """Labels as int64, 0 where masked, once `check_labels` has seen them; those out of range are refused."""
    target = (labels if mask is None else torch.where(mask, labels, 0)).long()
    check_range(target, num_classes)
    return target


def check_inputs(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None) -> None:
    """Refuse logits that do not fit each other, and a mask that does not fit them."""
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_floating(name, logits)
    student, teacher = tuple(student_logits.shape), tuple(teacher_logits.shape)
    if student != teacher:
        raise refused(
            f"student_logits have shape {student} but teacher_logits {teacher}; give both the same leading "
            "shape and the same classes in the last dimension."
        )
    if not student or student[-1] < 2:
        raise refused(f"logits have shape {student}; the last dimension must hold at least 2 classes.")
    check_mask(mask, student_logits.shape[:-1])


def prepare(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None
) -> tuple[Float[Tensor, "*batch classes"], Float[Tensor, "*batch classes"]]:
    """Both logits, checked, in working precision, the teacher detached, masked rows zeroed.

    Masked rows are overwritten before anything is computed from them: cleaning the result instead would
    let a NaN through in the gradient (0 * nan = nan).
    """
    check_inputs(student_logits, teacher_logits, mask)
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
    if mask is not None:
        keep = mask.unsqueeze(-1)
        student, teacher = torch.where(keep, student, 0.0), torch.where(keep, teacher, 0.0)
    return student, teacher


def zero_where_masked(losses: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None) -> Float[Tensor, "*batch"]:
    """Exactly 0 at masked positions."""
    return losses if mask is None else torch.where(mask, losses, 0.0)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small constant on a device. A GPU is sent each once, as sending waits for the GPU, which no CUDA graph may."""
    constant = tensor.device.type == "cpu" and not tensor.requires_grad and not torch.compiler.is_compiling()
    if device.type not in _ARE_WAITED_FOR or not constant or torch._C._are_functorch_transforms_active():
        return tensor.to(device)
    return _sent(tuple(tensor.reshape(-1).tolist()), tuple(tensor.shape), tensor.dtype, device)


@lru_cache(maxsize=64)
def _sent(values: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else no later loss could keep it for its gradient
        return torch.tensor(values, dtype=dtype).reshape(shape).to(device)


def kl_divergence(
    log_p: Float[Tensor, "*batch classes"], log_q: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(p || q) over the last axis, from log-probabilities; a class with p = 0 adds 0 whatever its q."""
    gap = torch.where(log_p.isneginf(), 0.0, log_p - log_q)
    return (log_p.exp() * gap).sum(-1)
