#!/usr/bin/env bash
# torch 2.13.0: whether a hook that is put on after the first call of a compiled model runs depends on the shape of the batch.
#
# torch.compile sets no guard on a module that has no hooks: code compiled before is used as it is, and the hook is not called,
# without a word. A batch of a new shape is compiled anew, now with the hook. So a tap put on a student that has already run, say
# for a check before training, sees the short last batch of each epoch and none of the full ones: features from it are not
# missing but stale. After torch._dynamo.reset(), or if it was put on before the first call, it sees them all.
#
# Seen, batches of 8, 8, 5, 8, 8, 5:   put on after a call: sees 5, 5    put on before it: 8, 8, 5, 8, 8, 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn


def seen(late, reset=False):
    torch._dynamo.reset()
    model, sizes = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), []
    compiled = torch.compile(model, backend="eager")  # the guards do not depend on the backend
    if late:
        compiled(torch.ones(8, 3))
    model[0].register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    if reset:
        torch._dynamo.reset()
    for size in (8, 8, 5, 8, 8, 5):
        compiled(torch.ones(size, 3))
    return sizes


late, early, again = seen(late=True), seen(late=False), seen(late=True, reset=True)
print("put on after a call:", late, "  before it:", early, "  after a call and a reset:", again)
assert late == [5, 5]
assert early == again == [8, 8, 5, 8, 8, 5]
PYTHON
