"""Losses and the assessment in a training loop of one's own: which of two teachers, and a student of it.

Nothing of the trainer is used: `losses` are functions of tensors, `assess.compare` of arrays. The data are made here.

$ python examples/own_loop.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.assess import compare
from preceptor.losses import wttm


def sample(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Five classes by the largest of five noisy sums."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 10, generator=generator)
    sums = inputs.view(size, 5, 2).sum(-1) + 0.7 * torch.randn(size, 5, generator=generator)
    return inputs, sums.argmax(-1)


def train(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, teacher: nn.Module | None = None) -> nn.Module:
    """The loop: cross-entropy to the labels, and with a teacher a loss to that."""
    inputs, labels = data
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            logits = model(inputs[rows])
            loss = F.cross_entropy(logits, labels[rows])
            if teacher is not None:
                with torch.no_grad():
                    said = teacher(inputs[rows])
                loss = 0.3 * loss + 3.0 * wttm(logits, said, temperature=2.0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Two teachers, the better one by held-out labels, and its student beside one of labels alone."""
    torch.manual_seed(0)
    few, heldout, test = sample(500, 0), sample(500, 1), sample(4000, 2)
    wide = lambda: nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 5))  # noqa: E731
    teachers = {f"{epochs} epochs": train(wide(), few, epochs) for epochs in (5, 60)}
    with torch.no_grad():
        logits = {name: teacher(heldout[0]) for name, teacher in teachers.items()}
    best = compare(logits, heldout[1], loss="wttm", temperature=2.0).best
    for name, teacher in {"labels alone": None, f"teacher of {best}": teachers[best]}.items():
        student = train(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 5)), few, 30, teacher)
        print(f"{name:20} accuracy {(student(test[0]).argmax(-1) == test[1]).float().mean():.3f}")


if __name__ == "__main__":
    main()
