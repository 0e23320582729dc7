"""A teacher's classifier in the losses that borrow it."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from preceptor.errors import InputError
from preceptor.losses.features.base import FeatureLoss, Features, Setting, only


class Borrowed:
    """A teacher's classifier, which a loss looks through and which nothing changes.

    It is no part of the loss: neither moved, trained nor saved with it.

    Args:
        head: the module whose output are the teacher's logits.
    """

    def __init__(self, head: nn.Module) -> None:
        self.head: nn.Module = head

    def __call__(self, vectors: Tensor) -> Tensor:
        """Logits (B, C) of vectors (B, D), with a gradient to these alone, in their precision."""
        tensors = {
            name: tensor.detach().to(vectors.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in (*self.head.named_parameters(), *self.head.named_buffers())
        }
        return functional_call(self.head, tensors, (vectors,))


def borrowed(loss: FeatureLoss, teacher: Features, setting: Setting) -> tuple[Borrowed, int]:
    """The teacher's classifier, and the width of the vectors that it is given.

    Raises:
        InputError: there is none, or it is given something else than one vector for each sample.
    """
    name, head = type(loss).__name__, setting.teacher_head
    if head is None:
        raise InputError(
            f"the loss '{name}' asks the teacher's classifier, and the teacher has no module whose output are its "
            "logits; give a model that ends in one"
        )
    feature = only(teacher)
    if feature.ndim == 2:
        found = Borrowed(head)
        try:
            with torch.no_grad():
                device = next((each.device for each in head.parameters()), feature.device)
                logits = found(feature.to(device))
        except RuntimeError:
            logits = None
        if logits is not None and logits.shape == (len(feature), setting.num_classes):
            return found, feature.shape[1]
    raise InputError(
        f"the loss '{name}' asks the teacher's classifier, a {type(head).__name__}, about features of shape "
        f"{tuple(feature.shape)} as at '{next(iter(teacher))}', for which it gives no logits of "
        f"{setting.num_classes} classes; leave out the teacher's tap, or name the vector that the classifier is given"
    )
