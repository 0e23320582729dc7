"""How fast is the proxy teacher? Against scipy's brentq row by row (M = 1) and scipy's SLSQP (M = 3).

Command: OMP_NUM_THREADS=1 python benchmarks/proxy_solver.py
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
from scipy.optimize import brentq, minimize

from preceptor.outputs.proxy import proxy_teacher


def by_brentq(probs: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """M = 1: the level of each row by brentq."""
    proxies = np.empty_like(probs)
    for i, p in enumerate(probs):
        slope = eps[:, 0] * p
        low, high = (p + slope).max(), 1 + slope.max()
        level = brentq(lambda x, p=p, slope=slope: (p / (x - slope)).sum() - 1, low, high, xtol=1e-14)
        proxies[i] = p / (level - slope)
    return proxies


def by_minimize(probs: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Any M: PTLoss of each row minimised over the simplex by SLSQP, with its gradient."""
    powers = np.arange(1, eps.shape[1] + 1)

    def loss(q, p):
        return (p * ((eps * (1 - q)[:, None] ** powers).sum(-1) - np.log(q))).sum()

    def gradient(q, p):
        return -p * ((powers * eps * (1 - q)[:, None] ** (powers - 1)).sum(-1) + 1 / q)

    simplex = {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like}
    bounds = [(1e-12, 1.0)] * probs.shape[1]
    options = {"ftol": 1e-12, "maxiter": 500}
    return np.stack(
        [
            minimize(loss, p, (p,), "SLSQP", jac=gradient, bounds=bounds, constraints=simplex, options=options).x
            for p in probs
        ]
    )


def best_of(function: Callable[[], object], repeats: int) -> float:
    """The shortest of several timings, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(name: str, degree: int, rows: int, classes: int, slow_rows: int, slow: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    eps = (2 * torch.rand(classes, degree, generator=generator, dtype=torch.float64) - 0.2) / (1 + torch.arange(degree))
    sample = logits[:slow_rows]
    ours = best_of(lambda: proxy_teacher(logits, eps), 5) / rows
    theirs = best_of(lambda: slow(sample.softmax(-1).numpy(), eps.numpy()), 1) / slow_rows
    expected = slow(sample.softmax(-1).numpy(), eps.numpy())
    error = np.abs(proxy_teacher(sample, eps).log_probs.exp().numpy() - expected).max()
    print(f"M={degree}, {rows} x {classes}: preceptor {1e6 * ours:.2f} us/row, ", end="")
    print(f"{name} {1e6 * theirs:.1f} us/row, ratio {theirs / ours:.1f}, largest difference {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    options = parser.parse_args()
    print("command:", "python", *sys.argv)
    print(f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, ", end="")
    print(f"scipy {scipy.__version__}, {torch.get_num_threads()} thread(s), {platform.machine()}")
    compare("brentq", 1, options.rows, options.classes, min(options.rows, 2000), by_brentq)
    compare("SLSQP", 1, options.rows, options.classes, min(options.rows, 10), by_minimize)
    compare("SLSQP", 3, options.rows, options.classes, min(options.rows, 10), by_minimize)


if __name__ == "__main__":
    main()
