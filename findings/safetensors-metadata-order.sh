#!/usr/bin/env bash
# safetensors 0.8.0 (with numpy 2.4.0): a file with two metadata entries is not reproducible.
#
# The entries come out of a hash map that is seeded anew in every process, so that the same call with the same tensors and
# the same metadata writes one of two files, at random: same tensors, same size, another SHA-256. With one entry, or none,
# all files are equal. Whoever compares weights by checksum (caches, "is this the teacher that I was trained on?", build
# systems) sees a change where there is none, about every second time.
#
# Seen, 12 processes each:   0 entries: 1 file   1 entry: 1 file   2 entries: 2 different files
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet safetensors==0.8.0 numpy==2.4.0
cat >"$folder/write.py" <<'PYTHON'
import hashlib, sys
import numpy as np
from safetensors.numpy import save_file
metadata = dict(list({"format": "np", "author": "me"}.items())[: int(sys.argv[1])])
save_file({"weight": np.zeros(4, np.float32)}, sys.argv[2], metadata or None)
print(hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest())
PYTHON
status=0
for entries in 0 1 2; do
    for _ in $(seq 12); do
        "$folder/venv/bin/python" "$folder/write.py" "$entries" "$folder/weights.safetensors"
    done | sort -u >"$folder/digests"
    found=$(wc -l <"$folder/digests" | tr -d ' ')
    echo "$entries entries: $found different file(s) from 12 processes"
    [ "$found" -eq $((entries < 2 ? 1 : 2)) ] || status=1 # 12 of one kind by chance: once in 2,048 tries
done
exit $status
