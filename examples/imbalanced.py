"""Imbalanced classes: class weights, focal loss, a balanced sampler and selection by macro F1, beside plain training.

One class has a sample in thirty. The data are made here.

$ python examples/imbalanced.py
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

import preceptor

COUNTS = torch.tensor([900, 260, 40])


def blobs(counts: torch.Tensor, seed: int) -> TensorDataset:
    """Three overlapping clouds in the plane."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(3), counts)
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.5, 2.7]])
    return TensorDataset(centres[labels] + torch.randn(len(labels), 2, generator=generator), labels)


def network(num_classes: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, num_classes))


def main() -> None:
    """Train a teacher, and three students of it."""
    data = blobs(COUNTS, 0), blobs(COUNTS // 4, 1), blobs(COUNTS, 2)
    common = {"data": data, "model": network, "epochs": 3, "lr": 0.02, "select": "macro_f1", "device": "cpu"}
    weighted = {"class_weights": "balanced"}
    preceptor.teach(**common | {"epochs": 15}, folder="runs/teacher", objective={"name": "focal", **weighted})
    teacher = preceptor.load("runs/teacher:best", model=network)
    students = {
        "plain": {},
        "focal, weighted": {"label_loss": {"name": "focal", "gamma": 1.0, **weighted}, "ce_weight": 0.5},
        "balanced sampler": {"sampler": "balanced", "ce_weight": 0.5},
    }
    plain = preceptor.teach(**common, objective="cross_entropy")
    print(f"{'no teacher, plain':20} macro F1 {plain['test']['best']['macro_f1']:.3f}")
    for name, keywords in students.items():
        result = preceptor.distill(**common, **keywords, teacher=teacher, loss="wttm", distill_weight=0.5)
        print(f"{name:20} macro F1 {result['test']['best']['macro_f1']:.3f}")


if __name__ == "__main__":
    main()
