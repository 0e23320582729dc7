#!/usr/bin/env bash
# safetensors 0.8.0 (with numpy 2.4.0, torch 2.13.0, ml_dtypes 0.5.4): its NumPy reader knows bfloat16 only after somebody
# imports ml_dtypes, and fp8 not even then.
#
# The same file, the same call, two answers: `safetensors.numpy.load_file` raises a TypeError for bfloat16 unless the process has
# imported ml_dtypes (JAX and TensorFlow do), which registers the name with NumPy. Files of float8_e4m3fn raise an AttributeError
# either way, although ml_dtypes has that type, too. torch's reader takes both.
#
# Seen:   bfloat16: TypeError, after import ml_dtypes: bfloat16   float8_e4m3fn: AttributeError, after: AttributeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet safetensors==0.8.0 numpy==2.4.0 torch==2.13.0 ml_dtypes==0.5.4
cat >"$folder/write.py" <<'PYTHON'
import sys

import torch
from safetensors.torch import save_file

save_file({"logits": torch.randn(4, 3).to(getattr(torch, sys.argv[1]))}, sys.argv[2])
PYTHON
cat >"$folder/read.py" <<'PYTHON'
import sys

if sys.argv[2] == "after":
    import ml_dtypes  # noqa: F401
from safetensors.numpy import load_file

try:
    print(load_file(sys.argv[1])["logits"].dtype)
except Exception as error:
    print(type(error).__name__)
PYTHON
found=""
for dtype in bfloat16 float8_e4m3fn; do
    "$folder/venv/bin/python" "$folder/write.py" "$dtype" "$folder/$dtype.safetensors"
    for when in before after; do
        said=$("$folder/venv/bin/python" "$folder/read.py" "$folder/$dtype.safetensors" "$when")
        echo "$dtype, $when import ml_dtypes: $said"
        found="$found$said "
    done
done
[ "$found" = "TypeError bfloat16 AttributeError AttributeError " ]
