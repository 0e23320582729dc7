"""When is a stack of models faster than training them one by one? Prints both and their ratio.

python benchmarks/stack_speed.py
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from preceptor import __version__
from preceptor.models import cnn, mlp, resnet8
from preceptor.tasks.stack import Stack
from preceptor.teaching import cross_entropy

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "digits student, mlp 64-16-10": (lambda: mlp(num_classes=10, input_shape=(64,), hidden=(16,)), (64,), 32),
    "digits teacher, mlp 64-128-128-10": (lambda: mlp(num_classes=10, input_shape=(64,)), (64,), 32),
    "Fashion-MNIST student, mlp 784-32-10": (
        lambda: mlp(num_classes=10, input_shape=(784,), hidden=(32,)),
        (784,),
        256,
    ),
    "Fashion-MNIST teacher, cnn 28x28": (lambda: cnn(num_classes=10, input_shape=(1, 28, 28)), (1, 28, 28), 128),
    "CIFAR, resnet8 32x32": (lambda: resnet8(num_classes=10, input_shape=(3, 32, 32)), (3, 32, 32), 64),
}


def seconds(step: Callable[[], None], repeats: int) -> float:
    """The best of three rounds, a step."""
    step()
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        rounds.append((time.perf_counter() - start) / repeats)
    return min(rounds)


def train_step(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One optimizer step of a model or a stack."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).mean(-1).sum().backward()
        optimizer.step()

    return step


def main(size: int = 10) -> None:
    """Measure every case."""
    print(f"preceptor {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, {size} models")
    for name, (make, shape, batch) in CASES.items():
        repeats = 50 if len(shape) == 1 else 3
        models = [make() for _ in range(size)]
        inputs, labels = torch.randn(size, batch, *shape), torch.randint(10, (size, batch))
        singles = [train_step(m, x, y) for m, x, y in zip(models, inputs, labels, strict=True)]
        alone = seconds(lambda: [step() for step in singles] and None, repeats)  # noqa: B023
        stacked = seconds(train_step(Stack(models), inputs, labels), repeats)
        print(f"{name:40} one by one {alone * 1e3:8.2f} ms   stack {stacked * 1e3:8.2f} ms   {alone / stacked:5.2f}x")


if __name__ == "__main__":
    main()
