#!/usr/bin/env bash
# The distillation losses of other libraries side by side with ours, and what carries logits without loss
# (docs/porting.md): an environment with their pinned releases, which is thrown away after.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place"
"$place/bin/python" -m pip install --quiet . timm==1.0.31 keras==3.15.1 datasets==5.2.0 pyarrow ml_dtypes \
    requests omegaconf pulp nvidia-ml-py transformers==5.24.0
# Declared with more than the losses need, or with releases that exclude each other: the packages alone.
"$place/bin/python" -m pip install --quiet --no-deps \
    nvidia-modelopt==0.47.0 torchdistill==1.1.5 textbrewer==0.2.1.post1 trl==1.16.0 liger-kernel==0.8.5
"$place/bin/python" benchmarks/porting.py
