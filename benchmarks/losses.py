"""What a loss and its gradient cost, beside the same formula left to autograd and beside reading and writing the bytes.

    python benchmarks/losses.py
    python benchmarks/losses.py --device cuda --json losses.json --markdown losses.md

Times are of one forward and backward pass, the two ways in turn, the median of the rounds; "ratio" is ours over the
plain formula's. "Buffers" is the peak of memory above what stood before, in logits of the input's dtype. The floor is
the time to read both logits and write the gradient once, at the bandwidth of a copy measured here. `--near` makes the
student differ from its teacher by a tenth of a logit, where ours works in float64 and the plain formula loses digits.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from preceptor import __version__, losses

SHAPES = {
    "cpu": [(64, 100), (256, 1000), (4096, 100), (1024, 32000)],
    "cuda": [(64, 100), (256, 1000), (4096, 100), (1024, 32000), (4096, 128000)],
}
DTYPES = {"cpu": [torch.float32], "cuda": [torch.float32, torch.bfloat16]}
QUICK = [(16, 50), (64, 1000)]
TEMPERATURE = 4.0
COEFFICIENTS = [0.3, 0.1]

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_kd(z: Tensor, v: Tensor) -> Tensor:
    """T² KL(p_T || q_T)."""
    log_p, log_q = (v.float() / TEMPERATURE).log_softmax(-1), (z.float() / TEMPERATURE).log_softmax(-1)
    return TEMPERATURE**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


def plain_ttm(z: Tensor, v: Tensor) -> Tensor:
    """KL(p_T || q)."""
    log_p = (v.float() / TEMPERATURE).log_softmax(-1)
    return (log_p.exp() * (log_p - z.float().log_softmax(-1))).sum(-1)


def plain_wttm(z: Tensor, v: Tensor) -> Tensor:
    """U KL(p_T || q)."""
    log_power = v.float().log_softmax(-1) / TEMPERATURE
    power = log_power.exp()
    total = power.sum(-1, keepdim=True)
    return (power * (log_power - total.log() - z.float().log_softmax(-1))).sum(-1)


def plain_ptloss(z: Tensor, v: Tensor) -> Tensor:
    """KL(p || q) + sum_c p_c sum_m eps_m (1 - q_c)^m."""
    log_p, log_q = v.float().log_softmax(-1), z.float().log_softmax(-1)
    p, rest = log_p.exp(), 1 - log_q.exp()
    first, second = COEFFICIENTS
    return (p * (log_p - log_q) + p * (first * rest + second * rest * rest)).sum(-1)


def plain_dkd(z: Tensor, v: Tensor) -> Tensor:
    """T² (KL of target and rest + 8 KL of the others), row i's target being class i."""
    target = _targets(z).unsqueeze(-1)
    z, v = z.float() / TEMPERATURE, v.float() / TEMPERATURE
    log_p, log_q = v.log_softmax(-1), z.log_softmax(-1)
    p, q = (x.exp().gather(-1, target).squeeze(-1) for x in (log_p, log_q))
    of_target = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    hidden = torch.zeros_like(v).scatter(-1, target, 1000.0)
    log_p, log_q = (v - hidden).log_softmax(-1), (z - hidden).log_softmax(-1)
    return TEMPERATURE**2 * (of_target + 8 * (log_p.exp() * (log_p - log_q)).sum(-1))


def _targets(z: Tensor) -> Tensor:
    return torch.arange(len(z), device=z.device) % z.shape[-1]


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "kd": (lambda z, v: losses.kd(z, v, temperature=TEMPERATURE), plain_kd),
    "ttm": (lambda z, v: losses.ttm(z, v, temperature=TEMPERATURE), plain_ttm),
    "wttm": (lambda z, v: losses.wttm(z, v, temperature=TEMPERATURE), plain_wttm),
    "ptloss": (lambda z, v: losses.ptloss(z, v, coefficients=COEFFICIENTS), plain_ptloss),
    "dkd": (lambda z, v: losses.dkd(z, v, _targets(z), temperature=TEMPERATURE), plain_dkd),
}


def step(loss: Loss, z: Tensor, v: Tensor) -> None:
    """One forward and backward pass."""
    z.grad = None
    loss(z, v).mean().backward()


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """The mean of some runs."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def in_turn(runs: list[Callable[[], object]], device: str, rounds: int, budget: float) -> list[float]:
    """The median over the rounds of each, measured in turn."""
    for run in runs:
        run()
    repeats = max(1, int(budget / rounds / sum(seconds(run, 1, device) for run in runs)))
    times = [[seconds(run, repeats, device) for run in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak(run: Callable[[], None], z: Tensor) -> float:
    """The most memory that a run held, in buffers of the logits."""
    z.grad = None
    size = z.numel() * z.element_size()
    if z.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / size


def bandwidth(device: str) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.zeros(1 << (26 if device == "cpu" else 29), device=device)
    target = torch.empty_like(source)
    (best,) = in_turn([lambda: torch.add(source, 0, out=target)], device, 5, 0.5)
    return 2 * source.numel() * source.element_size() / best


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each loss, shape and dtype."""
    rate, found = bandwidth(args.device), []
    for dtype in DTYPES[args.device]:
        for shape in QUICK if args.quick else SHAPES[args.device]:
            noise, v = (3 * torch.randn(shape, device=args.device, dtype=dtype) for _ in range(2))
            z = (v + 0.1 * noise / 3 if args.near else noise).requires_grad_()
            floor = 3 * z.numel() * z.element_size() / rate
            for name in args.losses:
                runs = [lambda loss=loss: step(loss, z, v) for loss in LOSSES[name]]  # noqa: B023
                ours, plain = in_turn(runs, args.device, args.rounds, args.seconds)
                memory = [peak(run, z) for run in runs]
                found.append(
                    {"loss": name, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
                    | {"ours_ms": 1e3 * ours, "plain_ms": 1e3 * plain, "floor_ms": 1e3 * floor, "ratio": ours / plain}
                    | {"ours_buffers": memory[0], "plain_buffers": memory[1]}
                )
                print(line(found[-1]), flush=True)
    return found


HEAD = """| loss | logits | ours ms | plain ms | floor ms | ratio | our buffers | plain buffers |
|---|---|--:|--:|--:|--:|--:|--:|"""


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    logits = f"{row['shape'][0]} x {row['shape'][1]} {row['dtype']}"
    numbers = " | ".join(f"{row[key]:.3g}" for key in ("ours_ms", "plain_ms", "floor_ms"))
    ratios = " | ".join(f"{row[key]:.2f}" for key in ("ratio", "ours_buffers", "plain_buffers"))
    return f"| {row['loss']} | {logits} | {numbers} | {ratios} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="LOSS")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--near", action="store_true", help="a student near its teacher")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {args.threads} threads"
    about = f"preceptor {__version__}, torch {torch.__version__}, {name}, {time.strftime('%Y-%m-%d')}"
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n{about}\n\n{HEAD}", flush=True)
    rows = measure(args)
    if args.json:
        args.json.write_text(json.dumps({"command": command, "about": about, "rows": rows}, indent=1) + "\n")
    if args.markdown:
        table = "\n".join([HEAD, *map(line, rows)])
        args.markdown.write_text(f"`{command}`\n\n{about}\n\n{table}\n")


if __name__ == "__main__":
    main()
