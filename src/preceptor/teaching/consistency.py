"""A penalty on what a teacher changes its mind about, sample by sample, after SoTeacher (arXiv 2206.06661)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.tensors import blank, prepare_logits


class Consistency(nn.Module):
    """weight(t) sum_c (q_c - S_c)^2, with q = softmax(logits) and S a mean of the sample's own past q.

    One value per example. S is kept for each sample under its index in the data set, and has no gradient.
    Each visit, after n earlier ones, updates S <- (1 - tau) S + tau q, where

    - "authors": tau is 1 at the first visit, then 1/(n + 2): the mean of all predictions, the first one twice;
    - "mean": 1/(n + 1), the plain mean; ours;
    - "ema": 1 at the first visit, then 1 - decay; ours.

    The authors count epochs; here each sample counts its own visits, which is the same where every sample is
    seen in every epoch. A sample's first visit costs 0, and so does the whole first epoch. From then on the
    weight is `weight` t/E in epoch t of E, counted from 1 ("linear"), or `weight` at once ("constant",
    ours).

    The history takes 4 N C + 8 N bytes per model for N samples and C classes: 20 MB for CIFAR-100, 5 GB for
    ImageNet. History, visits and current weight are buffers, so `state_dict` holds all there is to resume
    from.

    Args:
        weight: the final weight, at least 0.
        schedule: "linear" or "constant".
        average: "authors", "mean" or "ema".
        decay: what "ema" keeps of S at each visit, in [0, 1); the others have no use for it.

    Raises:
        InputError: a negative weight, an unknown schedule or average, or a decay outside [0, 1).

    >>> consistency = Consistency()
    >>> consistency.bind(num_samples=3, num_classes=2)
    >>> index, mask = torch.tensor([2]), torch.tensor([True])
    >>> consistency.start_epoch(0, 2)
    >>> consistency.observe(torch.tensor([[0.0, 0.0]]), index, mask)
    >>> consistency.start_epoch(1, 2)
    >>> consistency(torch.tensor([[0.0, 1000.0]]), torch.tensor([1]), index=index)  # 0.5^2 + 0.5^2
    tensor([0.5000])
    """

    history: Tensor
    visits: Tensor
    current_weight: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        *,
        schedule: Literal["linear", "constant"] = "linear",
        average: Literal["authors", "mean", "ema"] = "authors",
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise InputError(f"weight of the consistency penalty is {weight}: choose 0 or more, for instance 1.")
        if schedule not in ("linear", "constant"):
            raise InputError(f"schedule of the consistency penalty is {schedule!r}: choose 'linear' or 'constant'.")
        if average not in ("authors", "mean", "ema"):
            raise InputError(f"average of the consistency penalty is {average!r}: choose 'authors', 'mean' or 'ema'.")
        if not 0 <= decay < 1:
            raise InputError(f"decay of the consistency penalty is {decay}: choose it in [0, 1), for instance 0.9.")
        self.weight = weight
        self.schedule = schedule
        self.average = average
        self.decay = decay
        self.register_buffer("history", torch.zeros(0, 0))
        self.register_buffer("visits", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("current_weight", torch.zeros(()))

    def bind(
        self,
        *,
        num_samples: int,
        num_classes: int,
        stack: tuple[int, ...] = (),
        model: nn.Module | None = None,
    ) -> None:
        """Make room for a history, on the device that the module is on.

        Args:
            num_samples: N, the size of the data set that the indices point into.
            num_classes: C.
            stack: the leading model shape; each model has a history of its own.
            model: not used here.
        """
        self.history = self.history.new_zeros(*stack, num_samples, num_classes)
        self.visits = self.visits.new_zeros(*stack, num_samples)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight of this epoch.

        Args:
            epoch: counts from 0.
            epochs: how many there will be.
        """
        ramp = (epoch + 1) / epochs if self.schedule == "linear" else 1.0
        self.current_weight.fill_(self.weight * ramp if epoch > 0 else 0.0)

    def forward(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        labels: Int64[Tensor, "*stack batch"] | None = None,
        *,
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> Float[Tensor, "*stack batch"]:
        """The penalty of each example; nothing is remembered until `observe`.

        Args:
            logits: the teacher's logits, shape (*stack, B, C).
            labels: not used here: the penalty needs none.
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples that do not count, shape (*stack, B); theirs is exactly 0.

        Returns:
            Shape (*stack, B), in at least float32.

        Raises:
            InputError: `bind` has not been called, or index or history do not fit the logits.
        """
        self._check(logits, index)
        q = prepare_logits(logits, mask).softmax(-1)
        index = blank(index, mask)
        past = self.history.gather(-2, index.unsqueeze(-1).expand_as(q))
        known = self.visits.gather(-1, index) > 0
        counted = known if mask is None else known & mask
        return self.current_weight * blank((q - past).square().sum(-1), counted)

    @torch.no_grad()
    def observe(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> None:
        """Take the step's predictions into the history: the same, whole batch on every process.

        A sample that is met more than once in a step counts as one visit, with the mean of its predictions.

        Args:
            logits: the teacher's logits, shape (*stack, B, C).
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples to forget, such as the repeats that pad a shard, shape (*stack, B).

        Raises:
            InputError: `bind` has not been called, or index or history do not fit the logits.
        """
        self._check(logits, index)
        *stack, samples, classes = self.history.shape
        history, visits = self.history.view(-1, classes), self.visits.view(-1)
        first_row = torch.arange(0, len(visits), samples, device=index.device).view(*stack, 1)
        rows = (first_row + index).flatten()
        q = prepare_logits(logits, mask).softmax(-1).to(history.dtype).flatten(0, -2)
        if mask is not None:
            rows, q = rows[mask.flatten()], q[mask.flatten()]
        rows, place, times = rows.unique(return_inverse=True, return_counts=True)
        q = q.new_zeros(len(rows), classes).index_add_(0, place, q) / times.unsqueeze(-1)
        history[rows] = history[rows].lerp(q, self._rate(visits[rows]).unsqueeze(-1))
        visits[rows] += 1

    def _rate(self, visits: Tensor) -> Tensor:
        """tau, how much of a prediction enters the mean of a sample with so many earlier visits."""
        if self.average == "mean":
            return 1 / (visits + 1)
        # After the first visit the authors' counter is one ahead, and so counts the first prediction twice.
        later = 1 / (visits + 2) if self.average == "authors" else 1 - self.decay
        return torch.where(visits == 0, 1.0, later)

    def _check(self, logits: Tensor, index: Tensor | None) -> None:
        if not self.history.numel():
            raise InputError("the consistency penalty has no history: call bind(...) once, before training.")
        if index is None:
            raise InputError("the consistency penalty needs each sample's index: let the batch carry 'index'.")
        if index.shape != logits.shape[:-1]:
            raise InputError(
                f"index of shape {tuple(index.shape)} does not fit logits of shape {tuple(logits.shape)}: "
                "give one index per example."
            )
        *stack, _, classes = self.history.shape
        if [*logits.shape[:-2], logits.shape[-1]] != [*stack, classes]:
            raise InputError(
                f"logits of shape {tuple(logits.shape)} do not fit the history of shape "
                f"{tuple(self.history.shape)}: bind with the stack and the number of classes of the model."
            )
