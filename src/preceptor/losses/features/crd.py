"""CRD: a student's embedding of a sample is told from those of other classes by the teacher's, and the other way."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize, softplus

from preceptor.losses.features._contrast import Contrast
from preceptor.losses.features._relations import embedded, full_precision
from preceptor.losses.features.base import (
    Features,
    Gather,
    Published,
    expect,
    gradient_free,
    only,
)

_EPS = 1e-7


def noise_contrast(
    positive: Float[Tensor, " batch"], negative: Float[Tensor, "batch m"], num_samples: int
) -> Float[Tensor, " batch"]:
    """The noise contrastive loss of each sample: how badly its positive is told from m negatives, less is better.

    With scores h and noise that is uniform over N samples, -log(h / (h + m / N)) of the positive and
    -log((m / N) / (h + m / N)) of each negative, summed. Equation 18 of CRD, with its code's 1e-7 in the denominators.

    Args:
        positive, negative: log h, such as cosine / temperature - log Z.
        num_samples: N.

    Example:
        >>> import torch
        >>> noise_contrast(torch.tensor([0.0]), torch.tensor([[0.0, -9.0]]), num_samples=2)
        tensor([1.3864])
    """
    noise = negative.shape[1] / num_samples
    log_noise = math.log(noise + _EPS)
    of_negatives = softplus(negative - log_noise) + (log_noise - math.log(noise))
    return softplus(log_noise - positive) + of_negatives.sum(1)


class CRD(Contrast):
    """Contrastive representation distillation: one value per example, less is better.

    Tian, Krishnan and Isola, "Contrastive Representation Distillation" (ICLR 2020, arXiv 1910.10699). Linear
    embeddings of the pooled features, of unit length and both trained, are contrasted with a `Memory` of the other
    model's: the sample's own place against ``negatives`` samples of other classes, `noise_contrast` of
    exp(cosine / temperature) / Z, the student's against the teacher's memory plus the teacher's against the student's.
    Z, one for each of the two, is N times the mean over the first batch, and stays. Where no labels are known,
    negatives are any samples, as in the code without its sampler. Negatives of a sample are all different, or drawn
    repeatedly where there are too few.

    Needs ``index``. The memory is N x dim numbers twice, saved with the run; it moves after each optimizer step.

    Args:
        dim: of the embeddings.
        negatives: m, for each sample.
        temperature: of the cosines.
        momentum: the share of the old value in the memory's new one.
        student, teacher: where to look; by default at what the classifiers are given.

    Attributes:
        embed_student, embed_teacher: the embeddings before they are made of unit length.
        memory: the memory.
        log_constants: log Z of the student's and of the teacher's scores, inf before the first step.

    Raises:
        InputError: an option out of range; labels that are all the same; an index out of range; a saved memory of
            another number of samples.
    """

    published: ClassVar[Published] = Published(distill_weight=0.8, source="the code of CRD, arXiv 1910.10699")

    log_constants: Tensor

    def __init__(
        self,
        *,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        student: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(dim=dim, negatives=negatives, momentum=momentum, student=student, teacher=teacher)
        expect("temperature", temperature, 0 < temperature < math.inf, "a positive finite number")
        self.temperature: float = temperature
        self._first: list[Tensor] = []
        self.register_buffer("log_constants", torch.full((2,), math.inf))

    @full_precision
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        index: Int64[Tensor, " batch"],
        student_features: Features,
        teacher_features: Features,
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample; logits are not looked at."""
        self.memory.check(index)
        student = normalize(embedded(self.embed_student, only(student_features)))
        teacher = normalize(embedded(self.embed_teacher, only(gradient_free(teacher_features))))
        places = self.places(index)
        # With all places, and then those wanted: B x N numbers, where the rows of all places would be B x m x dim.
        scores = torch.stack(
            [
                (each @ bank.T.to(each.dtype)).gather(1, places) / self.temperature
                for each, bank in ((student, self.memory.teacher), (teacher, self.memory.student))
            ]
        )
        if not len(index):
            return scores.sum((0, 2))
        if self.training:
            self.memory.hold(index, student, teacher)
        return self._contrast(scores)

    def _contrast(self, scores: Float[Tensor, "2 batch places"]) -> Float[Tensor, " batch"]:
        num_samples = len(self.memory.student)
        counted = scores[0].numel()
        first = scores.detach().flatten(1).logsumexp(1) + math.log(num_samples / counted)
        if self.training:
            self._first.append(first)
        constants = torch.where(self.log_constants.isinf(), first, self.log_constants)
        log_h = scores - constants[:, None, None]
        of_student, of_teacher = (noise_contrast(each[:, 0], each[:, 1:], num_samples) for each in log_h)
        return of_student + of_teacher

    def end_step(self, gather: Gather) -> None:
        """Move the memory; after the first step, keep Z, the mean over its micro-batches and processes."""
        self.memory.merge(gather)
        first = gather(torch.stack([self.log_constants, *self._first])[1:])
        self._first.clear()
        if len(first):
            mean = first.logsumexp(0) - math.log(len(first))
            self.log_constants.copy_(torch.where(self.log_constants.isinf(), mean, self.log_constants))
