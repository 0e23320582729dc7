"""Distil in a LightningModule: a teacher out of a .ckpt, which is in no checkpoint of the student.

$ python examples/lightning_module.py
"""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from preceptor.integrations.lightning import Distillation, load_teacher

digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train = DataLoader(TensorDataset(images[:1000], labels[:1000]), batch_size=50, shuffle=True)


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class Plain(L.LightningModule):
    def __init__(self, width):
        super().__init__()
        self.model = net(width)

    def training_step(self, batch):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Student(Plain):
    def __init__(self, width, distillation):
        super().__init__(width)
        self.distillation = distillation  # no submodule: not in parameters, state dict or .ckpt

    def training_step(self, batch):
        parts = self.distillation(batch[0], self.model(batch[0]), batch[1])
        self.log_dict(parts, prog_bar=True)  # loss, ce, distill
        return parts["loss"]


def trained(module, epochs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir="lightning_module", **quiet)
    trainer.fit(module, train)
    return trainer.checkpoint_callback.best_model_path


L.seed_everything(0)
teacher = load_teacher(trained(Plain(128), 10), net(128))
student = Student(16, Distillation(teacher, "wttm", temperature=2.0))
kept = torch.load(trained(student, 15), weights_only=True)["state_dict"]
accuracy = [(model(images[1400:]).argmax(-1) == labels[1400:]).float().mean() for model in (teacher, student.model)]
print(f"accuracy of the teacher {accuracy[0]:.2f}, of the student {accuracy[1]:.2f}; in its .ckpt: {', '.join(kept)}")
