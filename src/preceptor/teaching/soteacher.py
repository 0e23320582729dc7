"""SoTeacher (arXiv 2206.06661): cross-entropy, a Lipschitz penalty and a consistency penalty.

The defaults are what the authors' released code computes. Whatever is ours says so.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from preceptor.errors import InputError
from preceptor.teaching.classification import cross_entropy
from preceptor.tensors import at_least_float32, blank, prepare_logits

Constant = Callable[[Mapping[str, Tensor]], Tensor]


class Lipschitz(nn.Module):
    """`weight` times the sum over layers of a bound on the layer's Lipschitz constant; a scalar per step.

    What a layer adds:

    ============  =====================================  ===================================================
    layer         norm="l1", the authors' code           norm="spectral", ours
    ============  =====================================  ===================================================
    convolution   sum of ``|W|`` over all entries        largest singular value of W as (out, in h w)
    batch norm    max ``|gamma| / sqrt(var + eps)``       the same, which is exact for a diagonal map
    linear        max over inputs of their ``sum |W|``   largest singular value of W
    ============  =====================================  ===================================================

    "l1" bounds the operator norm induced by the 1-norm (for a convolution loosely: a maximum over inputs
    would do). "spectral" bounds the one induced by the 2-norm, by power iteration; for a convolution it does
    so up to a constant, the square root of the kernel's size h w. Everything else (biases, sums, pooling,
    batch norm without gamma or without running statistics) is ignored. The running variance is no parameter,
    so of a batch norm only the arg-max gamma has a gradient.

    Args:
        weight: the factor on the sum, at least 0.
        norm: "l1" or "spectral".
        iterations: steps of the power iteration, which starts from one fixed vector: no state, no randomness.

    Raises:
        InputError: a negative weight, an unknown norm, or fewer than one iteration.

    >>> model = nn.Linear(2, 2)
    >>> penalty = Lipschitz(weight=1.0)
    >>> penalty.bind(model=model)
    >>> penalty.penalty({"weight": torch.tensor([[1.0, -2.0], [0.0, 3.0]]), "bias": torch.ones(2)})
    tensor(5.)
    """

    def __init__(self, weight: float = 1e-5, *, norm: Literal["l1", "spectral"] = "l1", iterations: int = 30) -> None:
        super().__init__()
        if not weight >= 0:
            raise InputError(f"weight of the Lipschitz penalty is {weight}: choose 0 or more, for instance 1e-5.")
        if norm not in ("l1", "spectral"):
            raise InputError(f"norm of the Lipschitz penalty is {norm!r}: choose 'l1' or 'spectral'.")
        if iterations < 1:
            raise InputError(f"iterations of the Lipschitz penalty is {iterations}: choose 1 or more.")
        self.weight = weight
        self.norm = norm
        self.iterations = iterations
        self.constants: list[Constant] | None = None

    def bind(
        self, *, model: nn.Module, num_samples: int = 0, num_classes: int = 0, stack: tuple[int, ...] = ()
    ) -> None:
        """Remember the model's layers by name.

        Args:
            model: the model whose parameters and buffers, by these names, `penalty` will be given.
            num_samples: not used here.
            num_classes: not used here.
            stack: not used here: see `penalty`.

        Raises:
            InputError: the model has no layer that counts, or a weight that is computed from others.
        """
        self.constants = list(self._layers(model)) if self.weight else []
        if self.weight and not self.constants:
            raise InputError(
                f"{type(model).__name__} has no convolution, batch norm or linear layer to penalise: "
                "set the weight of the Lipschitz penalty to 0."
            )

    def penalty(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The penalty of one model; under `torch.func.vmap` over stacked tensors, of each model of a stack.

        Args:
            tensors: name to tensor, the model's named parameters and buffers.

        Returns:
            A scalar, in at least float32.

        Raises:
            InputError: `bind` has not been called.
        """
        if self.constants is None:
            raise InputError("the Lipschitz penalty knows no model: call bind(model=...) once, before training.")
        # Of no layers, too, on the model's device: several processes add up their penalties there.
        nothing = torch.zeros((), device=next(iter(tensors.values())).device if tensors else None)
        return self.weight * sum((constant(tensors) for constant in self.constants), nothing)

    def _layers(self, model: nn.Module) -> Iterator[Constant]:
        """One function per layer from all tensors to its constant."""
        names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                if module.affine and module.running_var is not None:
                    yield _batch_norm(names[id(module.weight)], names[id(module.running_var)], module.eps)
            elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                if id(module.weight) not in names:
                    raise InputError(
                        f"the weight of layer '{path}' is no parameter of its own: "
                        "remove its parametrization, or set the weight of the Lipschitz penalty to 0."
                    )
                yield self._kernel(names[id(module.weight)], isinstance(module, nn.Linear))

    def _kernel(self, name: str, linear: bool) -> Constant:
        if self.norm == "spectral":
            return lambda tensors: largest_singular_value(tensors[name], iterations=self.iterations)
        if linear:
            return lambda tensors: at_least_float32(tensors[name]).abs().sum(0).amax()
        return lambda tensors: at_least_float32(tensors[name]).abs().sum()


def _batch_norm(gamma: str, variance: str, eps: float) -> Constant:
    def constant(tensors: Mapping[str, Tensor]) -> Tensor:
        scale = at_least_float32(tensors[variance]).add(eps).rsqrt()
        return (tensors[gamma].abs() * scale).amax()

    return constant


def largest_singular_value(weight: Float[Tensor, "out *rest"], *, iterations: int = 30) -> Float[Tensor, ""]:
    """Largest singular value of the weight as a matrix (out, everything else), by power iteration from below.

    Its gradient is that of u'Wv with both vectors held fixed: once they have converged, the gradient of the
    singular value itself.

    Args:
        weight: a linear or convolution kernel; its first dimension is the output.
        iterations: how often the fixed starting vector is multiplied by W'W.

    Returns:
        A scalar, in at least float32; 0 for a weight of zeros.

    >>> largest_singular_value(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    tensor(4.)
    """
    matrix = at_least_float32(weight).flatten(1)
    fixed = matrix.detach()
    # A vector without symmetry: an edge filter, say, would be orthogonal to one of ones, and stay there.
    v = torch.arange(1, matrix.shape[1] + 1, dtype=matrix.dtype, device=matrix.device).sin()
    u = fixed @ v
    for _ in range(iterations):
        v = nn.functional.normalize(fixed.mT @ nn.functional.normalize(u, dim=0), dim=0)
        u = fixed @ v
    return nn.functional.normalize(u, dim=0) @ (matrix @ v)


class Consistency(nn.Module):
    """weight(t) sum_c (q_c - S_c)^2, with q = softmax(logits) and S a mean of the sample's own past q.

    One value per example. S is kept for each sample under its index in the data set, and has no gradient.
    Each visit, after n earlier ones, updates S <- (1 - tau) S + tau q, where

    ===========  ======================================================================================
    average      tau
    ===========  ======================================================================================
    "authors"    1 at the first visit, then 1/(n + 2): the mean of all predictions, the first one twice
    "mean"       1/(n + 1): the plain mean; ours
    "ema"        1 at the first visit, then 1 - decay; ours
    ===========  ======================================================================================

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


class SoTeacher(nn.Module):
    """Cross-entropy + Lipschitz penalty + consistency penalty, by default as in the authors' released code.

    Dong et al. 2024 (arXiv 2206.06661). Cross-entropy and consistency are one value per example; the
    Lipschitz penalty is one per optimizer step. The first epoch is cross-entropy and Lipschitz penalty
    alone.

    The history of N samples and C classes takes 4 N C + 8 N bytes per model: see `Consistency`.

    Args:
        lipschitz: weight of `Lipschitz`; 0 leaves it out.
        consistency: final weight of `Consistency`; 0 leaves it out.
        norm: "l1" (the authors') or "spectral" (ours); see `Lipschitz`.
        schedule: "linear" (the authors') or "constant" (ours); see `Consistency`.
        average: "authors", "mean" (ours) or "ema" (ours); see `Consistency`.
        decay: what "ema" keeps at each visit.

    Raises:
        InputError: a value that its part refuses.

    >>> objective = SoTeacher()
    >>> objective.bind(model=nn.Linear(4, 3), num_samples=100, num_classes=3)
    >>> objective.start_epoch(0, 10)
    >>> objective(torch.zeros(1, 3), torch.tensor([2]), index=torch.tensor([57]))  # ln 3
    tensor([1.0986])
    """

    lipschitz: Lipschitz
    consistency: Consistency

    def __init__(
        self,
        lipschitz: float = 1e-5,
        consistency: float = 1.0,
        *,
        norm: Literal["l1", "spectral"] = "l1",
        schedule: Literal["linear", "constant"] = "linear",
        average: Literal["authors", "mean", "ema"] = "authors",
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        self.lipschitz = Lipschitz(lipschitz, norm=norm)
        self.consistency = Consistency(consistency, schedule=schedule, average=average, decay=decay)

    def bind(self, *, model: nn.Module, num_samples: int, num_classes: int, stack: tuple[int, ...] = ()) -> None:
        """Remember the model's layers and make room for the history.

        Args:
            model: the model whose parameters and buffers `penalty` will be given.
            num_samples: the size of the data set that the indices point into.
            num_classes: the number of classes.
            stack: the leading model shape.

        Raises:
            InputError: the Lipschitz penalty finds nothing in the model that it can bound.
        """
        self.lipschitz.bind(model=model)
        self.consistency.bind(num_samples=num_samples, num_classes=num_classes, stack=stack)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight of the consistency penalty for this epoch.

        Args:
            epoch: counts from 0.
            epochs: how many there will be.
        """
        self.consistency.start_epoch(epoch, epochs)

    def forward(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        labels: Int64[Tensor, "*stack batch"],
        *,
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> Float[Tensor, "*stack batch"]:
        """Cross-entropy plus consistency penalty of each example.

        Args:
            logits: the teacher's logits, shape (*stack, B, C).
            labels: class numbers in [0, C), shape (*stack, B).
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples that do not count, shape (*stack, B); theirs is exactly 0.

        Returns:
            Shape (*stack, B), in at least float32.

        Raises:
            InputError: `bind` has not been called, or labels, index or history do not fit the logits.
        """
        consistency = self.consistency(logits, labels, index=index, mask=mask)
        return cross_entropy(logits, labels, mask=mask) + consistency

    def penalty(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The Lipschitz penalty of one model.

        Args:
            tensors: name to tensor, the model's named parameters and buffers.

        Returns:
            A scalar, in at least float32.

        Raises:
            InputError: `bind` has not been called.
        """
        return self.lipschitz.penalty(tensors)

    def observe(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> None:
        """Take the step's predictions into the history.

        Args:
            logits: the teacher's logits, shape (*stack, B, C), gathered over processes.
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples to forget, shape (*stack, B).

        Raises:
            InputError: `bind` has not been called, or index or history do not fit the logits.
        """
        self.consistency.observe(logits, index, mask)
