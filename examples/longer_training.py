"""More epochs of a finished run, with a callback that stops it and a schedule of its own for the rest.

The new run names its parent, which stays as it is. The data are made here.

$ python examples/longer_training.py
"""

import tempfile
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import preceptor


def clouds(size: int, seed: int) -> TensorDataset:
    """Four classes on two crossing lines."""
    inputs = torch.randn(size, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, 2 * (inputs[:, 0] > 0).long() + (inputs[:, 1] * inputs[:, 2] > 0).long())


def network(num_classes: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, num_classes))


class GoodEnough:
    """Stops a run once its held-out accuracy is high enough."""

    def on_epoch_end(self, epoch: int, scores: dict[str, Any]) -> bool:
        """Called with the number of epochs done."""
        return scores["accuracy"] > 0.95


def main() -> None:
    """Train for a while, see that it was too short, and go on."""
    objects: dict[str, Any] = {"model": network, "data": (clouds(800, 0), clouds(200, 1), clouds(400, 2))}
    runs = tempfile.mkdtemp()
    short = preceptor.teach(**objects, epochs=4, lr=0.1, schedule={"name": "constant"}, folder=f"{runs}/short")
    longer = preceptor.teach(
        f"{runs}/short",
        f"{runs}/longer",
        **objects,
        more_epochs=40,
        schedule={"name": "cosine"},
        callbacks=[GoodEnough()],
    )
    epochs = longer.get("stopped", {"epochs": 44})["epochs"]
    print(f"after 4 epochs   {short['test']['last']['accuracy']:.3f}")
    print(f"after {epochs:<2} epochs  {longer['test']['last']['accuracy']:.3f}")


if __name__ == "__main__":
    main()
