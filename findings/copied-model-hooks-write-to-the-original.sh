#!/usr/bin/env bash
# torch 2.13.0: the average of a model (AveragedModel, or any deepcopy) writes what its hooks catch into the model's own taps.
#
# deepcopy copies hooks along with the module, but a function is copied by reference, with all that it closes over. An average
# made after a tap was put on the student, as in mean-teacher and self-distillation, therefore overwrites the student's features
# with its own when it runs; if it ran without gradient, the feature loss then compares the average with itself and trains
# nothing. Removing the tap removes it from the model alone: the average keeps on writing. Hooks that are bound methods do not
# do so, as deepcopy copies the object behind them.
#
# Seen, after student then average ran:   closure holds the average's features, without gradient   bound method: the student's
#                                         after remove(): 0 hooks on the model, 2 on the average, which still writes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Tap:
    def keep(self, module, args, output):
        self.output = output


student, tap, caught = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), Tap(), {}
handles = [
    student[0].register_forward_hook(lambda module, args, output: caught.update(output=output)),
    student[0].register_forward_hook(tap.keep),
]
average = AveragedModel(student)
with torch.no_grad():
    student[0].weight.add_(1)  # a step: the student is no longer the average
rows = torch.ones(2, 3)
student(rows)
with torch.no_grad():
    average(rows)
of_average = torch.equal(caught["output"], average.module[0].forward(rows))
print("closure holds the average's features:", of_average, "  with a gradient:", caught["output"].requires_grad)
print("bound method holds the student's:", torch.equal(tap.output, student[0].forward(rows)))
assert of_average and not caught["output"].requires_grad
assert tap.output.requires_grad and torch.equal(tap.output, student[0].forward(rows))
for handle in handles:
    handle.remove()
left = len(student[0]._forward_hooks), len(average.module[0]._forward_hooks)
caught.clear()
average(rows)
print("hooks after remove(): model", left[0], "average", left[1], "  still writes:", "output" in caught)
assert left == (0, 2) and "output" in caught
PYTHON
