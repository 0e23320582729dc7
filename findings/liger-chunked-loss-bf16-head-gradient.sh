#!/usr/bin/env bash
# liger-kernel 0.8.5 (torch 2.13.0): the more chunks, the more wrong the gradient of a bf16 head in its chunked losses.
#
# The chunks' gradients of the head are added up in the weight's own dtype. bf16 keeps 8 bits: when some hundred chunks have
# been added, a chunk's share is lost in rounding. A matrix product over all tokens, which this replaces to save memory, adds up
# in float32. So chunk_size, which looks like a choice of memory for speed alone, decides how far the gradient is off. At
# the default of 1024 tokens a chunk it is mild up to some ten thousands of tokens.
#
# Seen, 16384 tokens, error of the head's gradient:   1 chunk 0.2 %   16 (the default size) 0.4 %   256 1.6 %   1024 13 %
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
tokens, hidden, words = 16384, 32, 64
student, teacher = torch.randn(2, tokens, hidden).bfloat16()
head, teacher_head = (torch.randn(2, words, hidden) / hidden**0.5).bfloat16()
labels = torch.randint(words, (tokens,))


def gradient(chunks, dtype):
    loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta=0.0, compiled=False, chunk_size=tokens // chunks)
    weight = head.to(dtype, copy=True).requires_grad_()
    rows = student.to(dtype, copy=True).requires_grad_()
    loss(rows, weight, teacher.to(dtype), teacher_head.to(dtype), labels).backward()
    return weight.grad.double()


exact = gradient(1, torch.float64)
error = {chunks: float((gradient(chunks, torch.bfloat16) - exact).norm() / exact.norm()) for chunks in (1, 16, 256, 1024)}
single = float((gradient(1024, torch.float32) - exact).norm() / exact.norm())
print("relative error of the head's gradient, bf16:", {chunks: f"{value:.2%}" for chunks, value in error.items()})
print(f"float32, 1024 chunks: {single:.0e}")
assert error[1] < 0.01 and error[16] < 0.02 and error[1024] > 0.05
assert error[1] < error[16] < error[256] < error[1024]
assert single < 1e-4
PYTHON
