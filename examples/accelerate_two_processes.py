"""Distil in a loop of your own, in two processes: a task gives the loss of each process's share of the batch.

$ accelerate launch --multi_gpu --num_processes 2 examples/accelerate_two_processes.py

Without GPUs, too: the flag asks for several processes, which accelerate with --cpu does not start.
"""

from functools import partial

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from preceptor.losses import wttm
from preceptor.tasks import DistillTask, TeachTask
from preceptor.teaching import cross_entropy

digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def net(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def trained(make_task, model, epochs):
    data = DataLoader(TensorDataset(images[:1000], labels[:1000]), batch_size=25, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    task = make_task(model)
    for _ in range(epochs):
        for inputs, targets in data:
            # Examples of the whole step: the sum over processes, as accelerate takes the mean of their gradients.
            count = accelerator.reduce(torch.tensor(len(targets)), "sum") / accelerator.num_processes
            parts = task({"input": inputs, "label": targets}, count)
            accelerator.backward(parts["loss"])
            optimizer.step()
            optimizer.zero_grad()
    return accelerator.unwrap_model(model)


def accuracy(model):
    return (model(images[1400:]).argmax(-1) == labels[1400:]).float().mean().item()


accelerator = Accelerator(cpu=not torch.cuda.is_available())
torch.manual_seed(0)
teacher = trained(lambda model: TeachTask(model, cross_entropy), net(64), 5)
loss = partial(wttm, temperature=2.0)
student = trained(lambda model: DistillTask(model, teacher, loss, ce_weight=0.3, distill_weight=0.7), net(16), 8)
accelerator.print(
    f"{accelerator.num_processes} processes: accuracy of the teacher {accuracy(teacher):.2f}, "
    f"of the student {accuracy(student):.2f}"
)
accelerator.end_training()
