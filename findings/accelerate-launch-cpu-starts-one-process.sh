#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0): `accelerate launch --cpu --num_processes 2` starts one process, and says nothing.
#
# On a machine without a GPU the number of processes that was asked for is dropped: the script runs once, as if it had not been
# given. `--multi_gpu --num_processes 2`, on the same machine without a GPU, starts two, which talk by gloo. Scripts that are
# tried this way "on two processes" before they go to a cluster are tried on one.
#
# Seen:   --cpu --num_processes 2: 1 of 1   --multi_gpu --num_processes 2: 2 of 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.0
cat >"$folder/count.py" <<'PYTHON'
from accelerate import Accelerator

print(f"process of {Accelerator(cpu=True).num_processes}")
PYTHON
export HF_HOME="$folder/home" CUDA_VISIBLE_DEVICES="" # no configuration of the user's, no GPU
cpu=$("$folder/venv/bin/accelerate" launch --cpu --num_processes 2 "$folder/count.py" 2>/dev/null | sort)
multi=$("$folder/venv/bin/accelerate" launch --multi_gpu --num_processes 2 "$folder/count.py" 2>/dev/null | sort)
printf -- '--cpu --num_processes 2:\n%s\n--multi_gpu --num_processes 2:\n%s\n' "$cpu" "$multi"
[ "$cpu" = "process of 1" ] && [ "$multi" = "process of 2
process of 2" ]
