#!/usr/bin/env bash
# torchdistill 1.1.5 (with torch 2.13.0): with alpha = 0 the distillation loss is divided by T².
#
# KDLoss computes alpha CE + beta T² KL, but a shortcut for alpha = 0, and for batches without targets, returns the KL alone. A
# sweep over alpha from 0.1 to 0 therefore ends in a loss that is T² times smaller: at T = 4 a sixteenth. The default alpha=None
# cannot be constructed at all (1 - None).
#
# Seen, T = 4:   alpha 0: 0.4716   alpha 1e-9: 7.5456   ratio 16.00   alpha None: TypeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 pyyaml==6.0.3 scipy==1.17.0
"$folder/venv/bin/python" -m pip install --quiet --no-deps torchdistill==1.1.5 # torchvision is for its data sets
cat >"$folder/see.py" <<'PYTHON'
import torch
from torchdistill.losses.mid_level import KDLoss

draws = torch.Generator().manual_seed(0)
student, teacher = (torch.randn(64, 10, generator=draws, dtype=torch.float64) * 3 for _ in range(2))
labels = torch.arange(64) % 10


def loss(alpha):
    made = KDLoss("out", "output", "out", "output", temperature=4, alpha=alpha)
    return float(made({"out": {"output": student}}, {"out": {"output": teacher}}, labels))


try:
    default = KDLoss("out", "output", "out", "output", temperature=4) and "constructed"
except TypeError as error:
    default = type(error).__name__
zero, small = loss(0.0), loss(1e-9)
print(f"alpha 0: {zero:.4f}   alpha 1e-9: {small:.4f}   ratio {small / zero:.2f}   alpha None: {default}")
raise SystemExit(not (abs(small / zero - 16) < 1e-6 and default == "TypeError"))
PYTHON
"$folder/venv/bin/python" "$folder/see.py"
