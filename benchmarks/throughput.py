"""Samples a second of a student under a live teacher, trained end to end with augmentation: ours beside other ways.

    python benchmarks/throughput.py                        # on this machine's GPU, or else its CPU
    python benchmarks/throughput.py --device cpu --pairs wrn_40_2/wrn_16_2 --batches 64 512
    python benchmarks/throughput.py --quick                # a tiny form of everything, in half a minute

Ways, all with the same networks, images of 32x32 in 100 classes, random crops and mirror images, SGD and KD:

- plain: what the public repositories do: fp32, a Dataset that augments image by image, a DataLoader with workers;
- ours, fp32: a recipe without keys of speed;
- ours, auto: ``training.precision: auto``;
- ours, compiled: also ``training.compile``, which on a GPU captures the step;
- by hand: bytes and augmentation on the device, bf16, channels last; on a GPU compiled and captured as one graph;
- four together: ``distill_together`` of four students, in the fastest mode of ours, student-samples a second.

Every figure comes from a process of its own; rounds over all ways are repeated and the median is shown, with its ratio
to the plain script in the same round. The floors are what the convolutions and matrix products of a step must compute
and, read and written once each, move, at the rates that a large matrix product and a large copy reach here.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from preceptor import distill, distill_together, models
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.runs.files import write_text
from preceptor.study.text import markdown_table

CLASSES, SIDE, PADDING, TEMPERATURE = 100, 32, 4, 4.0
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WAYS = ("plain", "ours, fp32", "ours, auto", "ours, compiled", "by hand")
STUDENTS = 4
HELDOUT = 64


# -- what is measured, each in a process of its own --------------------------------------------------------------------


def images(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bytes as images (N, 32, 32, 3), and labels."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (samples, SIDE, SIDE, 3), dtype=np.uint8), np.arange(samples) % CLASSES


def network(name: str) -> nn.Module:
    """One of the zoo, freshly drawn."""
    return getattr(models, name)(num_classes=CLASSES)


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Images that are cropped, mirrored and normalised one at a time, on Pillow, as public repositories do."""

    def __init__(self, samples: int) -> None:
        from PIL import Image, ImageOps

        self._image, self._ops = Image, ImageOps
        self.pixels, self.labels = images(samples)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._ops.expand(self._image.fromarray(self.pixels[index]), PADDING)
        down, right = torch.randint(2 * PADDING + 1, (2,)).tolist()
        image = image.crop((right, down, right + SIDE, down + SIDE))
        if torch.rand(()) < 0.5:
            image = self._ops.mirror(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        return pixels.sub_(mean).div_(std), int(self.labels[index])


def softened_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KD as it is written everywhere."""
    p, log_q = F.softmax(teacher / TEMPERATURE, -1), F.log_softmax(student / TEMPERATURE, -1)
    return F.kl_div(log_q, p, reduction="batchmean") * TEMPERATURE**2


def plain(teacher: str, student: str, *, batch: int, samples: int, epochs: int, device: str) -> float:
    """The plain script; seconds of its fastest epoch."""
    taught, learner = network(teacher).to(device).eval(), network(student).to(device)
    loader = DataLoader(
        OneByOne(samples), batch, shuffle=True, num_workers=8 if device == "cuda" else 2, pin_memory=device == "cuda"
    )
    optimizer = torch.optim.SGD(learner.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for inputs, labels in loader:
            inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.no_grad():
                said = taught(inputs)
            logits = learner(inputs)
            loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * softened_kl(logits, said)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # for the running mean that every script prints

    return fastest(epoch, epochs, device)


def by_hand(teacher: str, student: str, *, batch: int, samples: int, epochs: int, device: str) -> float:
    """What sixty lines reach; seconds of its fastest epoch."""
    layout: Any = torch.channels_last
    taught, learner = network(teacher).to(device).to(memory_format=layout).eval(), network(student).to(device)
    learner = learner.to(memory_format=layout)
    pixels, labels = (torch.from_numpy(each).to(device) for each in images(samples))
    pixels = pixels.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))
    optimizer = torch.optim.SGD(learner.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    half = torch.bfloat16

    def batch_of(index: Tensor) -> Tensor:
        x = F.pad(pixels[index].float().div_(255).sub_(mean).div_(std), (PADDING,) * 4)
        down, right = torch.randint(0, 2 * PADDING + 1, (2, len(index), 1), device=device)
        line = torch.arange(SIDE, device=device)
        columns = torch.where(torch.rand(len(index), 1, device=device) < 0.5, SIDE - 1 - line, line) + right
        sample = torch.arange(len(index), device=device)[:, None, None]
        chosen = x[sample, :, (line + down)[:, :, None], columns[:, None, :]]
        return chosen.permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def teach(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device, half, cache_enabled=False):
            return taught(x)

    def loss_of(x: Tensor, y: Tensor, said: Tensor) -> Tensor:
        with torch.autocast(device, half, cache_enabled=False):
            logits = learner(x).float()
        return 0.1 * F.cross_entropy(logits, y) + 0.9 * softened_kl(logits, said.float())

    on_gpu = device == "cuda"
    teach_, loss_ = (torch.compile(teach), torch.compile(loss_of)) if on_gpu else (teach, loss_of)

    def step(index: Tensor) -> None:
        x = batch_of(index)
        loss_(x, labels[index], teach_(x)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not on_gpu)

    steps = samples // batch
    if not on_gpu:
        return fastest(lambda: [step(torch.randint(samples, (batch,))) for _ in range(steps)], epochs, device)
    index = torch.randint(samples, (batch,), device=device)
    replay = captured(lambda: step(index))

    def epoch() -> None:
        for _ in range(steps):
            index.random_(0, samples)
            replay()

    return fastest(epoch, epochs, device)


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """A step as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def fastest(epoch: Callable[[], Any], epochs: int, device: str) -> float:
    """Seconds of the fastest of some epochs; one more goes before."""
    times = []
    for _ in range(epochs + 1):
        started = time.perf_counter()
        epoch()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def ours(
    teacher: str,
    student: str,
    *,
    batch: int,
    samples: int,
    epochs: int,
    device: str,
    training: dict[str, Any],
    students: int = 1,
) -> float:
    """A recipe of ours, or several students together; seconds of its fastest epoch."""
    pixels, labels = images(samples + HELDOUT)
    normalize = Normalize(255.0, MEAN, STD)
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    data = Data(
        ArrayDataset(inputs, torch.from_numpy(labels), transform=normalize), None, tuple(map(str, range(CLASSES)))
    )
    recipe: dict[str, Any] = {
        "model": student,
        "loss": {"name": "kd", "temperature": TEMPERATURE},
        "augmentation": "crop_flip",
        "split": {"heldout": HELDOUT},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        "training": {"epochs": epochs + 1, "batch_size": batch, "checkpoint_epochs": epochs + 1, **training},
    }
    if device == "cpu":
        recipe["training"]["device"] = "cpu"
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(place) / "run"
        if students == 1:
            distill(recipe, folder, teacher=network(teacher), data=data)
        else:
            company = {str(n): {"streams": {"initialization": n}} for n in range(students)}
            distill_together(recipe, company, folder, teacher=network(teacher), data=data)
            folder = folder / "0"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return min(line["time_epoch"] for line in lines[1:])


def measure(way: str, teacher: str, student: str, **size: Any) -> float:
    """Samples a second, or student-samples of several students."""
    fast: dict[str, Any] = {"precision": "auto"}
    compiled = fast | {"compile": "auto" if size["device"] == "cuda" else can_compile()}
    recipes: dict[str, dict[str, Any]] = {"ours, fp32": {}, "ours, auto": fast, "ours, compiled": compiled}
    whole = size["samples"] // size["batch"] * size["batch"]
    size["samples"] = whole
    if way == "plain":
        return whole / plain(teacher, student, **size)
    if way == "by hand":
        return whole / by_hand(teacher, student, **size)
    if way in recipes:
        return whole / ours(teacher, student, **size, training=recipes[way])
    return STUDENTS * whole / ours(teacher, student, **size, training=compiled, students=STUDENTS)


def can_compile() -> bool:
    """Whether torch.compile finds a compiler for the CPU."""
    return shutil.which("g++") is not None


# -- floors ------------------------------------------------------------------------------------------------------------


class Moved(TorchDispatchMode):
    """Counts the bytes of operands and results of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(word in str(func) for word in ("convolution", "aten.mm", "aten.addmm")):
            self.bytes += sum(each.nbytes for each in tree_leaves((args, result)) if isinstance(each, Tensor))
        return result


def floor(teacher: str, student: str, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """FLOPs and bytes of a sample in one step, counted on a step of a few samples."""
    few = min(batch, 16)
    taught, learner, x = network(teacher).to(dtype).eval(), network(student).to(dtype), torch.rand(few, 3, SIDE, SIDE)
    moved = Moved()
    with FlopCounterMode(display=False) as counter, moved:
        with torch.no_grad():
            taught(x.to(dtype))
        learner(x.to(dtype)).sum().backward()
    return {"flops": counter.get_total_flops() / few, "bytes": moved.bytes / few}


def rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """FLOPs a second of a large matrix product, bytes a second of a large copy (each is read and written)."""
    n = 8192 if device == "cuda" else 2048
    a, b = torch.rand(n, n, device=device).to(dtype), torch.rand(n, n, device=device).to(dtype)
    source = torch.empty(2**28 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "flops": 2 * n**3 / fastest(lambda: a @ b, 5, device),
        "bytes": 2 * source.nbytes / fastest(lambda: target.copy_(source), 5, device),
    }


# -- the table ---------------------------------------------------------------------------------------------------------


def in_a_process(arguments: dict[str, Any]) -> float:
    """What `measure` gives, from a fresh process."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{arguments['way']} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything that is measured in one round."""
    for pair in options.pairs:
        teacher, student = pair.split("/")
        for batch in options.batches:
            for way in (*options.ways, *([f"{STUDENTS} together"] if batch == min(options.batches) else [])):
                yield {
                    "way": way,
                    "teacher": teacher,
                    "student": student,
                    "batch": batch,
                    "samples": max(options.samples, 2 * batch),
                    "epochs": options.epochs,
                    "device": options.device,
                }


def main() -> None:
    """Measure, and print a table."""
    options = parsed()
    if options.measure:
        print(measure(**json.loads(options.measure)))
        return
    figures: dict[tuple[str, int, str], list[float]] = {}
    for number in range(options.rounds):
        for cell in cells(options):
            key = (f"{cell['teacher']}/{cell['student']}", cell["batch"], cell["way"])
            figures.setdefault(key, []).append(in_a_process(cell))
            print(f"round {number}: {' '.join(map(str, key))}: {figures[key][-1]:.0f}", file=sys.stderr, flush=True)
    half = torch.bfloat16
    floors = {
        f"{pair} {batch}": floor(*pair.split("/"), batch, half) for pair in options.pairs for batch in options.batches
    }
    peak = rates(options.device, half)
    text = report(options, figures, floors, peak)
    print(text)
    if options.markdown:
        write_text(options.markdown, text + "\n")
    if options.json:
        kept = [
            {"pair": pair, "batch": batch, "way": way, "samples_per_second": values}
            for (pair, batch, way), values in figures.items()
        ]
        content = {"machine": machine(options.device), "figures": kept, "floors": floors, "rates": peak}
        write_text(options.json, json.dumps(content, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The options, cut for a quick form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", nargs="+", help="TEACHER/STUDENT of preceptor.models")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--samples", type=int, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=2, help="timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny networks and batches, one round")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if options.quick:
        options.batches, options.rounds, options.epochs, options.samples = [8], 1, 1, 16
    options.pairs = options.pairs or (
        ["resnet8/resnet8"]
        if options.quick
        else ["resnet32x4/resnet8x4", "wrn_40_2/wrn_16_2"]
        if on_gpu
        else ["wrn_40_2/wrn_16_2"]
    )
    options.samples = options.samples or (25_600 if on_gpu else 1024)
    return options


def machine(device: str) -> str:
    """What the figures are of."""
    has = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not know
    named = torch.cuda.get_device_name() if device == "cuda" else has.get("cpu_name", "CPU")
    return f"{named}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(
    options: argparse.Namespace,
    figures: dict[tuple[str, int, str], list[float]],
    floors: dict[str, dict[str, float]],
    peak: dict[str, float],
) -> str:
    """The table, with each figure's ratio to the plain script in the same round, and the floors."""
    rows = []
    for (pair, batch, way), values in figures.items():
        base = figures.get((pair, batch, "plain"))
        ratio = "" if base is None else f"{statistics.median(v / b for v, b in zip(values, base, strict=True)):.2f}"
        rows.append([pair, str(batch), way, f"{statistics.median(values):,.0f}", ratio])
    for key, of_a_sample in floors.items():
        pair, batch = key.split(" ")
        for name, rate in peak.items():
            rows.append([pair, batch, f"floor by {name}", f"{rate / of_a_sample[name]:,.0f}", ""])
    head = ["teacher/student", "batch", "way", "samples/s", "times plain"]
    rounds = f"{options.rounds} round(s), {options.epochs} timed epoch(s) of {options.samples} images or two batches"
    measured = f"bf16: {peak['flops'] / 1e12:.2f} TFLOP/s, {peak['bytes'] / 1e9:.1f} GB/s"
    return f"{machine(options.device)}; {rounds}; {measured}\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    main()
