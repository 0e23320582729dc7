#!/usr/bin/env bash
# torch 2.13.0 on Linux: a CPU training step faults in all of its large activations anew, every step, for ever.
#
# torch takes CPU memory from the C library and has no cache of its own there, as it has on a GPU. glibc serves what is
# above 32 MiB (the most that its own adaptive threshold grows to) by mmap and gives it back by munmap, so the kernel must
# clear each page of each such tensor again in every step; of smaller ones it gives back what lies on top of the heap. So
# the larger the batch, the more pages a sample: WRN-16-2 under WRN-40-2 on 32x32 images in bf16 made 360 samples/s at
# batch 64 and 230 at 512 on two cores, and 500 at 512 with mallopt(M_MMAP_MAX, 0) and a high M_TRIM_THRESHOLD.
# Counted here are page faults, which do not depend on the speed of the machine.
#
# Seen (pages of 4 KiB, activations of 128 KiB a sample):  page faults of a step of   8 samples: 190 to 250 (31 a sample)
#                                                                                   512 samples: 278,545 (544 a sample)
#                                                                      512 samples, with mallopt: 0 to 3,277
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy
cat >"$folder/faults.py" <<'PYTHON'
import ctypes
import resource
import sys

import torch
from torch import nn

batch, keep = int(sys.argv[1]), sys.argv[2] == "keep"
if keep:
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
torch.set_num_threads(1)
model = nn.Sequential(*[layer for _ in range(2) for layer in (nn.Conv2d(32, 32, 1), nn.ReLU())])
inputs = torch.rand(batch, 32, 32, 32)  # 128 KiB a sample


def step():
    model(inputs).sum().backward()
    model.zero_grad()


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


for _ in range(5):
    step()
before = faults()
for _ in range(5):
    step()
print(round((faults() - before) / 5))
PYTHON
small=$("$folder/venv/bin/python" "$folder/faults.py" 8 plain)
large=$("$folder/venv/bin/python" "$folder/faults.py" 512 plain)
kept=$("$folder/venv/bin/python" "$folder/faults.py" 512 keep)
echo "page faults a step: 8 samples $small, 512 samples $large, 512 samples with mallopt $kept"
[ "$small" -lt 1000 ] && [ "$large" -gt 100000 ] && [ $((20 * kept)) -lt "$large" ]
