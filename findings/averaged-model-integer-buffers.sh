#!/usr/bin/env bash
# torch 2.13.0: AveragedModel(use_buffers=True) leaves integer buffers at the value of the first update.
#
# Buffers are averaged as parameters are, avg + (new - avg) / (n + 1), but in the buffer's own dtype: for whole numbers the
# step is cut off to 0, as it is below 1 wherever the counter rises by 1 an update. The running mean and variance of
# BatchNorm move, its num_batches_tracked does not; nor does any counter of one's own. Where momentum is None the counter
# is the weight of the next batch, so that training on from the average forgets the statistics that were averaged.
# The docstring promises "running averages for both the parameters and the buffers of the model".
#
# Seen:  after 5 updates   model: num_batches_tracked 5    average: num_batches_tracked 1
#        one batch of ones after that moves the average's running mean by 1/2 of the way (momentum=None), the model's by 1/6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

model = nn.BatchNorm1d(1, momentum=None)
average = AveragedModel(model, use_buffers=True)
for _ in range(5):
    model(torch.zeros(4, 1))
    average.update_parameters(model)
tracked = int(model.num_batches_tracked), int(average.module.num_batches_tracked)
print("num_batches_tracked after 5 updates: model", tracked[0], "average", tracked[1])
shares = []
for each in (model, average.module):
    each.train()(torch.ones(4, 1))
    shares.append(float(each.running_mean))
print("share of one more batch in the running mean: model %.4f, average %.4f" % tuple(shares))
assert tracked == (5, 1)
assert abs(shares[0] - 1 / 6) < 1e-6 and abs(shares[1] - 1 / 2) < 1e-6
PYTHON
