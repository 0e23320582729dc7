"""What fused linear losses cost beside the same losses of whole logits, and beside Liger's where it is installed.

    python benchmarks/linear_losses.py
    python benchmarks/linear_losses.py --sizes 128256,2048,2048 --rounds 0
    python benchmarks/linear_losses.py --device cuda --dtype bfloat16 --sizes 49152,2048,576 128256,8192,2048

One forward and backward pass from hidden states and heads of student and teacher, the ways in turn; the median of the
rounds. "plain" is the formula left to autograd on whole logits; "ratio" is a way's time over that of plain. On a CPU
time is that of the process, as the wall's is also of whoever shares the machine. "Above" is the peak of memory above
the inputs, the parameters and their gradients, "share" that over plain's. "Floor" is the time over that of the
products that the way cannot do without, at the rate of one such product measured here. With `--rounds 0` times are of
the one run in which memory is watched.
"""

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from preceptor import __version__
from preceptor.losses import linear

Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BETA, RECOMPUTED = 0.5, "per token"


def plain_kd(h: Tensor, w: Tensor, states: Tensor, teacher: Tensor) -> Tensor:
    """The mean KL(p || q)."""
    log_p, log_q = _log_probs(h, w, states, teacher)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def plain_jsd(h: Tensor, w: Tensor, states: Tensor, teacher: Tensor) -> Tensor:
    """The mean Jensen-Shannon divergence, as trainers write it."""
    log_p, log_q = _log_probs(h, w, states, teacher)
    log_m = torch.logsumexp(torch.stack([log_q, log_p]), 0) + torch.tensor(BETA).log()
    kl = torch.nn.functional.kl_div
    of_p, of_q = (kl(log_m, each, reduction="none", log_target=True) for each in (log_p, log_q))
    return (BETA * of_p + (1 - BETA) * of_q).sum(-1).mean()


def _log_probs(h: Tensor, w: Tensor, states: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        v = states @ teacher.t()
    return v.float().log_softmax(-1), (h @ w.t()).float().log_softmax(-1)


def ours(loss: Callable[..., Tensor], per_token: bool, **options: Any) -> Way:
    """The mean."""

    def way(h: Tensor, w: Tensor, states: Tensor, teacher: Tensor) -> Tensor:
        weight = torch.full((len(h),), 1 / len(h), device=h.device)
        return loss(h, w, (states, teacher), weight=weight, per_token=per_token, **options).sum()

    return way


def ligers(beta: float, chunk: int, compiled: bool) -> Way:
    """Its chunked JSD, which at beta 0 is the KL."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # pyright: ignore[reportMissingImports]

    options = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "beta": beta, "chunk_size": chunk}
    loss = LigerFusedLinearJSDLoss(**options, compiled=compiled)
    return lambda h, w, *teacher: loss(h, w, *teacher, torch.zeros(len(h), dtype=torch.long, device=h.device))


def ways(args: argparse.Namespace) -> dict[str, dict[str, Way]]:
    """By loss and name; plain first."""
    found: dict[str, dict[str, Way]] = {
        "kd": {"plain": plain_kd, "sum": ours(linear.kd, False), RECOMPUTED: ours(linear.kd, True)},
        "jsd": {"plain": plain_jsd} | {n: ours(linear.jsd, n == RECOMPUTED, beta=BETA) for n in ("sum", RECOMPUTED)},
    }
    if args.liger:
        for loss, beta in (("kd", 0.0), ("jsd", BETA)):
            for chunk in (1024, 256):
                found[loss][f"Liger, chunk {chunk}"] = ligers(beta, chunk, args.liger == "compiled")
    return {loss: found[loss] for loss in args.losses}


# -- measures ----------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one run: of the process on a CPU, of the wall on a GPU."""
    clock = time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@contextlib.contextmanager
def watched(device: str) -> Iterator[list[int]]:
    """The peak of memory above what stood before, in bytes, once it is over."""
    peak: list[int] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.append(torch.cuda.max_memory_allocated() - before)
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        yield peak
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    peak.append(most)


def floor(way: str, vocabulary: int, tokens: int, width: int) -> float:
    """The FLOPs of the products: logits of both sides and two gradients; per token the logits of both sides twice."""
    return (12 if way == RECOMPUTED else 8) * tokens * vocabulary * width


def rate(tensors: list[Tensor], device: str) -> float:
    """FLOPs a second of the product that makes logits of 256 tokens (1024 on a GPU)."""
    h, w = (tensor.detach() for tensor in tensors[:2])
    h = h[: 1024 if device == "cuda" else 256]
    times = [seconds(lambda: h @ w.t(), device) for _ in range(5)]
    return 2 * len(h) * w.numel() / statistics.median(times)


def measure(args: argparse.Namespace, size: tuple[int, int, int]) -> list[dict[str, Any]]:
    """A row for each loss and way."""
    vocabulary, tokens, width = size
    dtype = getattr(torch, args.dtype)
    shapes = [(tokens, width), (vocabulary, width)] * 2
    tensors = [(0.1 if rows == vocabulary else 1.0) * torch.randn(rows, w, device=args.device) for rows, w in shapes]
    tensors = [tensor.to(dtype).requires_grad_(i < 2) for i, tensor in enumerate(tensors)]
    flops = rate(tensors, args.device)
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in tensors[:2])
    told(size, dtype, gradients, flops)
    rows = []
    for loss, by_name in ways(args).items():
        times: dict[str, list[float]] = {name: [] for name in by_name}
        above, values = {}, {}

        def forget() -> None:
            for tensor in tensors[:2]:
                tensor.grad = None

        def step(way: Way) -> Tensor:
            forget()
            value = way(*tensors)
            value.backward()
            return value.detach()

        for name, way in by_name.items():
            if args.device == "cuda" or (args.liger == "compiled" and "Liger" in name):
                step(way)  # compile
            forget()
            with watched(args.device) as peak:
                start = seconds(lambda: values.update({name: step(way).item()}), args.device)  # noqa: B023
            above[name] = peak[0] - gradients
            times[name] += [] if args.rounds else [start]
        for _ in range(args.rounds):
            for name, way in by_name.items():
                times[name].append(seconds(lambda: step(way), args.device))  # noqa: B023
        medians = {name: statistics.median(found) for name, found in times.items()}
        for name in by_name:
            rows.append(
                {"loss": loss, "way": name, "size": list(size), "dtype": args.dtype, "value": values[name]}
                | {"seconds": medians[name], "ratio": medians[name] / medians["plain"]}
                | {"floor": medians[name] * flops / floor(name, *size)}
                | {"above": above[name], "share": above[name] / above["plain"]}
            )
            print(line(rows[-1]), flush=True)
    return rows


def told(size: tuple[int, int, int], dtype: torch.dtype, gradients: int, flops: float) -> None:
    """What cannot be less."""
    vocabulary, tokens, width = size
    logits = tokens * vocabulary * 4 / 1e6
    print(
        f"\nV {vocabulary}, N {tokens}, H {width}, {str(dtype).removeprefix('torch.')}: "
        f"{floor('sum', *size) / 1e12:.2f} TFLOP, {floor(RECOMPUTED, *size) / 1e12:.2f} per token, "
        f"at {flops / 1e9:.0f} GFLOP/s; gradients {gradients / 1e6:.0f} MB (the head's in float32 "
        f"{4e-6 * vocabulary * width:.0f} MB); one tensor of all logits in float32 {logits:.0f} MB\n\n{HEAD}",
        flush=True,
    )


HEAD = """| loss | way | seconds | ratio | floor | above MB | share | value |
|---|---|--:|--:|--:|--:|--:|--:|"""


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["loss"], row["way"], f"{row['seconds']:.3g}", f"{row['ratio']:.2f}", f"{row['floor']:.2f}"]
    cells += [f"{row['above'] / 1e6:.0f}", f"{row['share']:.3f}", f"{row['value']:.6f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--sizes", nargs="+", default=["49152,2048,576"], help="vocabulary, tokens, width")
    parser.add_argument("--losses", nargs="+", choices=["kd", "jsd"], default=["kd", "jsd"])
    parser.add_argument("--liger", choices=["eager", "compiled"], help="measure its chunked JSD too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {args.threads} threads"
    about = f"preceptor {__version__}, torch {torch.__version__}, {name}, {time.strftime('%Y-%m-%d')}"
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n{about}", flush=True)
    sizes = [(500, 64, 16)] if args.quick else [tuple(int(n) for n in size.split(",")) for size in args.sizes]
    rows = [row for size in sizes for row in measure(args, size)]
    if args.json:
        args.json.write_text(json.dumps({"command": command, "about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
