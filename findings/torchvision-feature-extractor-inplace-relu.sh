#!/usr/bin/env bash
# torchvision 0.28.0 (torch 2.13.0): what is caught at a bn layer of resnet18 is the output of the ReLU that follows it.
#
# The ReLUs of its ResNets work in place: they write over the tensor that was caught. A forward hook on bn1 sees the right
# values when it is called, but what it keeps has no negative number afterwards. create_feature_extractor leaves out what it does
# not need: of ["bn1"] alone it returns the right values, of ["bn1", "layer1"] those after the ReLU. So what "bn1" means
# depends on what else was asked for. Methods that compare features before the ReLU (such as overhaul distillation)
# then compare what comes after it.
#
# Seen, least value at bn1:   extractor of bn1 alone: -1.35   of bn1 and layer1: 0   hook, when called: -1.35, afterwards: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 pillow
"$folder/venv/bin/python" -m pip install --quiet --no-deps torchvision==0.28.0
cat >"$folder/see.py" <<'PYTHON'
import torch

if torch.version.cuda is None:  # torchvision's compiled operators need CUDA's libraries; the models do not need the operators
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

torch.manual_seed(0)
model, images, least = resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64), {}
with torch.no_grad():
    least["alone"] = float(create_feature_extractor(model, ["bn1"])(images)["bn1"].min())
    least["with layer1"] = float(create_feature_extractor(model, ["bn1", "layer1"])(images)["bn1"].min())
    caught = []
    model.bn1.register_forward_hook(lambda module, args, output: caught.append((output, float(output.min()))))
    model(images)
least["hook, when called"], least["hook, afterwards"] = caught[0][1], float(caught[0][0].min())
print({name: round(value, 2) for name, value in least.items()})
assert least["alone"] < -1 and least["hook, when called"] < -1
assert least["with layer1"] == 0 and least["hook, afterwards"] == 0
PYTHON
"$folder/venv/bin/python" "$folder/see.py"
