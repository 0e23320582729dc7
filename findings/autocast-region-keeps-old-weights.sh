#!/usr/bin/env bash
# torch 2.13.0: within one autocast region a model goes on with the weights of its first call, whatever is written to them.
#
# autocast casts a float32 weight that wants a gradient once a region, and finds the cast again by the tensor, not by what is
# in it. What changes it in place (an optimizer's step, load_state_dict, the average or reference weights swapped in for a second
# forward pass) changes nothing until the region is left, not under no_grad either. A model that is its own teacher with
# other weights then agrees with itself: a divergence of exactly 0. A loop within one region steps along the gradient of its
# first step for ever, and logs one and the same loss. cache_enabled=False casts anew at each call. The docstring of autocast
# warns of backward passes within it, not of this.
#
# Seen:   the average's weights swapped in: outputs differ by 0.0, with cache_enabled=False by 3.78
#         100 steps of SGD in one region: loss 1.0728 at each of them, and 49.7903 outside; a region each: 1.0728 to 0.0832
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib

import torch
from torch import nn


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 4), torch.randint(3, (16,))


def region(**options):
    return torch.autocast("cpu", torch.bfloat16, **options)


@torch.no_grad()
def gap(**options):
    """Between the outputs of a model and of the weights that are then swapped in, on the average."""
    student, rows, _ = made()
    average = {name: value + 0.5 for name, value in student.state_dict().items()}
    with region(**options):
        own = student(rows)
        student.load_state_dict(average)
        return float((student(rows) - own).abs().mean())


def losses(whole):
    """Of 100 steps, in one region or each in its own, and of the weights that are left."""
    student, rows, labels = made()
    optimizer, seen = torch.optim.SGD(student.parameters(), 1.0), []
    with region() if whole else contextlib.nullcontext():
        for _ in range(100):
            with contextlib.nullcontext() if whole else region():
                loss = nn.functional.cross_entropy(student(rows), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
    return seen, nn.functional.cross_entropy(student(rows), labels).item()


kept, anew = gap(), gap(cache_enabled=False)
print(f"average weights swapped in: outputs differ by {kept}, with cache_enabled=False by {anew:.2f}")
(one, after), (own, _) = losses(whole=True), losses(whole=False)
print(f"100 steps in one region: {len(set(one))} loss, {one[0]:.4f}, and {after:.4f} outside")
print(f"a region for each: {own[0]:.4f} to {own[-1]:.4f}")
assert kept == 0 and anew > 1
assert len(set(one)) == 1 and after > one[0] + 1 and own[-1] < own[0] - 0.3
PYTHON
