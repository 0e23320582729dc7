#!/usr/bin/env bash
# keras 3.15.1 (torch 2.13.0 as its backend): the default loss of LogitsDistillation takes logits for probabilities.
#
# `keras.distillation.LogitsDistillation(temperature=4)` has loss="kl_divergence". Its code applies softmax and the factor T²
# where the loss is an instance of KLDivergence, but the string becomes the *function* of that name, which is no instance. So by
# default the KL is computed between raw logits divided by T and clipped to [1e-7, 1]: no softmax, no T². A student whose
# logits are the teacher's plus 5 says exactly what its teacher says, and its loss should be 0; a KL is never negative.
#
# Seen:   default 'kl_divergence': -0.2869   KLDivergence(): 0.0000     (student = teacher + 5 in every class)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet keras==3.15.1 numpy==2.4.0 torch==2.13.0
cat >"$folder/see.py" <<'PYTHON'
import keras
import numpy as np

teacher = np.array([[0.5, -3.0, -4.0], [-2.0, 0.75, -1.0]], np.float32)
student = teacher + 5  # the same distributions
found = {}
for name, loss in {"default": "kl_divergence", "object": keras.losses.KLDivergence()}.items():
    found[name] = float(keras.distillation.LogitsDistillation(temperature=4, loss=loss).compute_loss(teacher, student))
print(f"default 'kl_divergence': {found['default']:.4f}   KLDivergence(): {found['object']:.4f}")
raise SystemExit(not (abs(found["default"]) > 0.1 and abs(found["object"]) < 1e-5))
PYTHON
KERAS_BACKEND=torch "$folder/venv/bin/python" "$folder/see.py"
