"""What an assessment costs: `compare` with all scores and intervals.

    python benchmarks/assess_cost.py
    python benchmarks/assess_cost.py --teachers 2 --samples 50000 --classes 1000 --repeats 1

Aim: 20 teachers x 10,000 samples x 100 classes in under 5 s on 2 cores. The second form has 400 MB of logits in
float32; it took 52 s and 5.7 GB when all of it was turned into float64 at once.
"""

import argparse
import platform
import resource
import sys
import time

import numpy as np
import torch

import preceptor
from preceptor.assess import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((args.samples, args.classes), dtype=np.float32)
    # Some rows at a time, so that making the data takes no more memory than holding it.
    labels = np.concatenate(
        [
            (rows + rng.gumbel(size=rows.shape)).argmax(-1)
            for rows in np.array_split(logits, max(1, args.samples // 1000))
        ]
    )
    teachers = {f"teacher-{i}": logits * np.float32(0.5 + 0.1 * i) for i in range(args.teachers)}
    del logits
    baseline = _peak_memory()

    wall, cpu = [], []
    for _ in range(args.repeats):
        start = time.perf_counter(), time.process_time()
        comparison = compare(teachers, labels)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])

    print("python", *sys.argv)
    print(
        f"preceptor {preceptor.__version__}, python {platform.python_version()}, numpy {np.__version__}, "
        f"torch {torch.__version__}, {platform.machine()}, {time.strftime('%Y-%m-%d')}"
    )
    print(
        f"{args.teachers} teachers x {args.samples} samples x {args.classes} classes: "
        f"{_list(wall)} s ({_list(cpu)} s of CPU); peak memory {_peak_memory():.2f} GB "
        f"({baseline:.2f} GB before); best: {comparison.best}"
    )


def _list(seconds: list[float]) -> str:
    return " ".join(f"{s:.2f}" for s in seconds)


def _peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
