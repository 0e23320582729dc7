#!/usr/bin/env bash
# liger-kernel 0.8.5 (torch 2.13.0): what is not finite at a token labelled -100 gives a finite loss and a gradient of NaN.
#
# The chunked losses mask the loss of a token after it was computed: masked_fill makes the loss 0 and its gradient 0 times NaN.
# One hidden state of NaN or infinity at a padded place, the student's or the teacher's (padding behind a mask of minus infinity
# may do that), turns every weight of the head into NaN in the next step, though the loss that is logged is that without the
# token. Leaving ignored rows out before the loss, hidden_states[labels != -100], avoids it.
#
# Seen, 8 tokens, the last ignored:  loss 0.5788 with 0, NaN and infinity there; NaN in the head's gradient 0 %, 100 %, 100 %
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" -m pip install --quiet --no-deps liger-kernel==0.8.5 # triton is for its other losses
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

torch.manual_seed(0)
student, teacher = torch.randn(8, 16), torch.randn(8, 16)
head, teacher_head = torch.randn(32, 16), torch.randn(32, 16)
labels = torch.randint(32, (8,))
labels[-1] = -100
soft = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False)


def step(value, side):
    hidden = {"student": student.clone(), "teacher": teacher.clone()}
    hidden[side][-1] = value
    weight = head.clone().requires_grad_()
    loss = soft(hidden["student"].requires_grad_(), weight, hidden["teacher"], teacher_head, labels)
    loss.backward()
    return float(loss.detach()), float(weight.grad.isnan().float().mean())


for side in ("student", "teacher"):
    clean, nan, infinite = (step(float(value), side) for value in ("0", "nan", "inf"))
    for name, (loss, share) in {"0": clean, "NaN": nan, "infinity": infinite}.items():
        print(f"{name} in the {side}'s ignored token: loss {loss:.4f}, NaN in the head's gradient {share:.0%}")
    assert clean[0] == nan[0] == infinite[0]
    assert (clean[1], nan[1], infinite[1]) == (0, 1, 1)
PYTHON
