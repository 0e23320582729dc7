#!/usr/bin/env bash
# timm 1.0.31 (torch 2.13.0, torchvision 0.28.0): a teacher of one's own is given other images than the task is called with.
#
# The tasks of timm.task take images to be normalised as the student's pretrained_cfg says, and a teacher without pretrained_cfg
# to want ImageNet's mean and deviation; where the two differ they convert for the teacher. A module that wraps a model, or one
# that is not of timm, and that was trained on the very images that are passed, so gets others under a student whose
# configuration says 0.5 and 0.5 (many vision transformers of timm): of more than twice the contrast. What the loader did is
# neither asked for nor looked at, and kd_loss is a number like any other. Setting the student's pretrained_cfg on the module
# gives it what is passed.
#
# Seen, a copy of the student (weights at random) as its teacher, images of mean 0 and deviation 1:   as it is: kd_loss 0.0000
#       wrapped in a module: kd_loss 0.1687, 61 % of classes as outside of the task, given images of mean 0.23 and deviation 2.22
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 pillow pyyaml safetensors==0.8.0 huggingface_hub==2.4.0
"$folder/venv/bin/python" -m pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31
cat >"$folder/see.py" <<'PYTHON'
import copy

import torch
from torch import nn

if torch.version.cuda is None:  # torchvision's compiled operators need CUDA's libraries; the models do not need the operators
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
import timm
from timm.task import LogitDistillationTask


class Own(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        self.given = images
        self.said = self.model(images)
        return self.said


torch.manual_seed(0)
student = timm.create_model("test_vit", num_classes=10).eval()
for each in student.parameters():
    if each.dim() > 1:
        nn.init.normal_(each, std=0.2)
images, labels = torch.randn(64, 3, 160, 160), torch.arange(64) % 10
outside = student(images).argmax(-1)
alike, wrapped, told = copy.deepcopy(student), Own(copy.deepcopy(student)), Own(copy.deepcopy(student))
told.pretrained_cfg = student.pretrained_cfg
losses = {}
for name, teacher in {"as it is": alike, "wrapped": wrapped, "wrapped, with pretrained_cfg": told}.items():
    task = LogitDistillationTask(student, teacher, nn.CrossEntropyLoss(), distill_loss_weight=1.0, verbose=False)
    with torch.no_grad():
        losses[name] = float(task.eval()(images, labels)["kd_loss"])
    print(f"{name}: kd_loss {losses[name]:.4f}")
same = float((wrapped.said.argmax(-1) == outside).float().mean())
mean, deviation = float(wrapped.given.mean()), float(wrapped.given.std())
print(f"the wrapped one: {same:.0%} of classes as outside the task, images of mean {mean:.2f} and deviation {deviation:.2f}")
assert losses["as it is"] == losses["wrapped, with pretrained_cfg"] == 0
assert losses["wrapped"] > 0.05 and same < 0.9 and deviation > 2
assert torch.equal(told.given, images)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/see.py"
