"""A penalty on a bound of the teacher's Lipschitz constant, layer by layer, after SoTeacher (arXiv 2206.06661)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from preceptor.errors import InputError
from preceptor.tensors import at_least_float32

Constant = Callable[[Mapping[str, Tensor]], Tensor]


class Lipschitz(nn.Module):
    """`weight` times the sum over layers of a bound on the layer's Lipschitz constant; a scalar per step.

    What a layer adds:

    - convolution: the sum of ``|W|`` over all entries under norm="l1" (the authors' code), the largest singular value
      of W as (out, in h w) under norm="spectral" (ours);
    - batch norm: max ``|gamma| / sqrt(var + eps)`` under both, which is exact for a diagonal map;
    - linear: the maximum over inputs of their ``sum |W|``, or the largest singular value of W.

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
