#!/usr/bin/env bash
# datasets 5.2.0 (with numpy 2.4.0): with_format("numpy") gives float32 for what was stored as float64.
#
# The column is float64 in its schema and in the file. Asked for with the format "numpy" it comes back as float32, whose
# log-probabilities differ in the seventh digit; without a format, or with dtype=numpy.float64, nothing is lost. Integers keep
# their type. Whoever stores a teacher's float64 outputs and compares or matches them by value finds that they have changed.
#
# Seen:   schema: List(Value('float64'))   with_format("numpy"): float32   dtype=float64: float64   largest error 1e-07
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet datasets==5.2.0 numpy==2.4.0
cat >"$folder/see.py" <<'PYTHON'
import datasets
import numpy as np

logits = np.random.default_rng(0).standard_normal((64, 10))
table = datasets.Dataset.from_dict({"logits": list(logits)})
read = np.asarray(table.with_format("numpy")["logits"][:])
asked = np.asarray(table.with_format("numpy", dtype=np.float64)["logits"][:])
error = np.abs(read - logits).max()
print(f"schema: {table.features['logits']}   with_format(\"numpy\"): {read.dtype}   dtype=float64: {asked.dtype}   "
      f"largest error {error:.0e}")
kept = asked.dtype == np.float64 and np.array_equal(asked, logits)
raise SystemExit(not (read.dtype == np.float32 and error > 0 and kept))
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/see.py"
