"""Imbalanced classes: class weights, focal loss, a balanced sampler and selection by macro F1, beside plain training.

One class has a sample in thirty. The data are made here.

$ python examples/imbalanced.py
"""

import tempfile

import torch
from torch import nn
from torch.utils.data import TensorDataset

import preceptor

COUNTS = torch.tensor([900, 260, 40])


def blobs(counts: torch.Tensor, seed: int) -> TensorDataset:
    """Three overlapping clouds in the plane."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(3), counts)
    centres = torch.tensor([[0.0, 0.0], [2.2, 0.0], [1.1, 2.0]])
    return TensorDataset(centres[labels] + torch.randn(len(labels), 2, generator=generator), labels)


def network(num_classes: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, num_classes))


def main() -> None:
    """Train a teacher, and three students of it."""
    data = blobs(COUNTS, 0), blobs(COUNTS // 4, 1), blobs(COUNTS, 2)
    common = {"data": data, "model": network, "epochs": 10, "lr": 0.05, "select": "macro_f1", "device": "cpu"}
    run = f"{tempfile.mkdtemp()}/teacher"
    preceptor.teach(**common, folder=run, objective={"name": "focal", "class_weights": "balanced"})
    teacher = preceptor.load(f"{run}:best", model=network)
    # Full balance finds the rare class most often, and is wrong about it most often, which macro F1 counts as well:
    # weights between those and none, here by the effective number of samples, are often the best.
    effective = {"name": "effective", "beta": 0.99}
    students = {
        "plain": {},
        "balanced sampler": {"sampler": "balanced"},
        "focal, effective": {"label_loss": {"name": "focal", "gamma": 1.0, "class_weights": effective}},
    }
    plain = preceptor.teach(**common, objective="cross_entropy")
    print(f"{'no teacher, plain':20} macro F1 {plain['test']['best']['macro_f1']:.3f}")
    for name, keywords in students.items():
        result = preceptor.distill(
            **common, **keywords, teacher=teacher, loss="wttm", distill_weight=0.25, ce_weight=1.0
        )
        print(f"{name:20} macro F1 {result['test']['best']['macro_f1']:.3f}")


if __name__ == "__main__":
    main()
