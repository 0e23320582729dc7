"""What records cost and keep: rows read a second, bytes beside what is lost of the teacher, and accidents.

    python benchmarks/records.py read         # random rows of 100 classes from the page cache
    python benchmarks/records.py curve        # 1,000 classes: bytes, KL, and students of three seeds
    python benchmarks/records.py accidents    # 200 flipped bits, 50 kills
    python benchmarks/records.py              # all of them

Aims: 200,000 random rows a second on two cores; mean KL under 1e-3 nats in an eighth of the bytes of dense float32;
every flipped bit named, every killed recording completed to the same bytes.

The teacher of the curve is the true posterior of a mixture of 1,000 Gaussians, so it is calibrated by construction. Its
mean entropy is set to 0.9 nats: a calibrated network's mean entropy is its mean NLL, and that of ImageNet networks with
76 to 80 % top-1 is 0.8 to 1.0 after temperature scaling.
"""

import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import preceptor
from attacks import _flip
from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses.targets import SampledTargets, TopKTargets
from preceptor.records import Dense, Manifest, Record, RecordWriter, Sampled, TopK
from preceptor.runs.verify import verify

FLIPS, KILLS = 200, 50
ENTROPY = 0.9


def record_of(folder: Path, form: Any, log_probs: Tensor, labels: Tensor, *, shard_size: int = 65_536) -> Record:
    """A record of log-probabilities, whose ids are their places."""
    said = Manifest(form=form, num_classes=log_probs.shape[-1], num_samples=len(labels))
    with RecordWriter(folder, said, shard_size=shard_size) as writer:
        for rows in torch.arange(len(labels)).split(4096):
            writer.write(rows, 0, log_probs[rows], labels[rows])
    return Record(folder)


def table(head: str, rows: Iterator[str] | list[str]) -> None:
    """Print rows under a head, as Markdown."""
    print(f"\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
    for row in rows:
        print(f"| {row} |", flush=True)


# -- read --------------------------------------------------------------------------------------------------------------


def read() -> None:
    """Random rows of 100 classes a second, in batches of 256, from the page cache."""
    print("\n100 classes, 100,000 samples, batches of 256 in random order; the median of 6 rounds.")
    table("form | bytes a row | written a second | read a second, 1 thread | 2 threads", _read_rows(100_000, 100))


def _read_rows(samples: int, classes: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(samples, classes, generator=generator)).log_softmax(-1)
    labels = torch.arange(samples) % classes
    for form in (Dense(), Dense("float16"), TopK(20), TopK(40, "uint8"), Sampled(20)):
        with tempfile.TemporaryDirectory() as name:
            torch.set_num_threads(2)
            started = time.perf_counter()
            record = record_of(Path(name), form, log_probs, labels)
            written = samples / (time.perf_counter() - started)
            rates = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                rates.append(samples / statistics.median(_reading(record, samples) for _ in range(6)))
            size = record.num_bytes / samples
            yield f"{form} | {size:.0f} | {written:,.0f} | {rates[0]:,.0f} | {rates[1]:,.0f}"


def _reading(record: Record, samples: int) -> float:
    batches = torch.randperm(samples).split(256)
    started = time.perf_counter()
    for ids in batches:
        record.read(ids)
    return time.perf_counter() - started


# -- curve -------------------------------------------------------------------------------------------------------------

CLASSES, DIMENSIONS, TRAIN, TEST, EPOCHS, SEEDS = 1000, 64, 8192, 2048, 10, 3


class Mixture:
    """1,000 Gaussians, so wide that the posterior has the entropy that is wanted."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.means = torch.randn(CLASSES, DIMENSIONS, generator=self.generator)
        low, high = 0.5, 4.0
        for _ in range(20):
            self.width = (low + high) / 2
            log_probs = self.sample(2000)[1]
            found = -(log_probs.exp() * log_probs).sum(-1).mean()
            low, high = (self.width, high) if found < ENTROPY else (low, self.width)

    def sample(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, the log-probabilities of their classes, and labels."""
        labels = torch.randint(CLASSES, (size,), generator=self.generator)
        inputs = self.means[labels] + self.width * torch.randn(size, DIMENSIONS, generator=self.generator)
        distance = torch.cdist(inputs, self.means).square()
        return inputs, (-distance / (2 * self.width**2)).log_softmax(-1), labels


def curve() -> None:
    """Bytes, KL and students, of 1,000 classes."""
    torch.set_num_threads(1)
    mixture = Mixture()
    train, test = mixture.sample(TRAIN), mixture.sample(TEST)
    top1 = (test[1].argmax(-1) == test[2]).float().mean()
    entropy = -(test[1].exp() * test[1]).sum(-1).mean()
    print(
        f"\n1,000 classes; the teacher's mean entropy is {entropy:.2f} nats, its top-1 accuracy {top1:.1%}. KL of the "
        "stored from the true distribution, the mass outside the top k spread evenly. Loss: of a student of the dense "
        "form, the mean error of kd at T = 1 with its standard error, and the standard deviation of one example's. "
        f"Students: linear, kd at T = 1, {TRAIN:,} samples, {EPOCHS} epochs, {SEEDS} seeds (mean ± sd): "
        "accuracy, and KL from the teacher, on new samples."
    )
    reference = _student(train, test, lambda ids: train[1][ids], 0)[2]
    forms: list[Any] = [Dense(), Dense("float16"), TopK(4), TopK(16), TopK(64), TopK(270, "uint8")]
    forms += [Sampled(4), Sampled(16), Sampled(64)]
    head = "form | bytes a row | of dense float32 | KL, nats | loss: mean error ± s.e., sd | accuracy | KL of students"
    table(head, _curve_rows(forms, train, test, reference))


def _curve_rows(forms: list[Any], train: Any, test: Any, reference: nn.Module) -> Iterator[str]:
    for form in forms:
        with tempfile.TemporaryDirectory() as name:
            record = record_of(Path(name), form, train[1], train[2])
            size = record.num_bytes / TRAIN
            lost, noise = _lost(record, train[1]), _noise(record, train, reference)
            found = [_student(train, test, record.read, seed) for seed in range(SEEDS)]
        share = f"1/{4 * CLASSES / size:.1f}"
        yield f"{form} | {size:.0f} | {share} | {lost} | {noise} | {_told(found)}"
    labels = nn.functional.one_hot(train[2], CLASSES).float().log()
    yield f"labels alone | 4 | | | | {_told([_student(train, test, lambda ids: labels[ids], s) for s in range(SEEDS)])}"


def _told(found: list[tuple[float, float, nn.Module]]) -> str:
    accuracy, kl = ([each[place] for each in found] for place in (0, 1))
    mean, spread = statistics.mean, statistics.stdev
    return f"{mean(accuracy):.2%} ± {spread(accuracy):.2%} | {mean(kl):.3f} ± {spread(kl):.3f}"


def _lost(record: Record, log_probs: Tensor) -> str:
    """The mean KL of what is stored from the teacher."""
    total = 0.0
    for ids in record.ids.split(4096):
        stored, true = record.read(ids), log_probs[ids].double()
        if isinstance(stored, SampledTargets):
            return "none: unbiased"
        if isinstance(stored, TopKTargets):
            even = stored.log_tail[:, None].double() - torch.tensor(float(CLASSES - stored.ids.shape[-1])).log()
            read = even.expand(-1, CLASSES).scatter(-1, stored.ids, stored.log_probs.double())
        else:
            read = stored.log_probs.double()
        gap = torch.where(true.isneginf(), 0.0, true - read.log_softmax(-1))
        total += float((true.exp() * gap).sum())
    return f"{total / len(record):.1e}"


@torch.no_grad()
def _noise(record: Record, train: Any, student: nn.Module) -> str:
    ids = record.ids[:8192]
    logits = student(train[0][ids])
    error = losses.kd(logits, record.read(ids), temperature=1.0) - losses.kd(logits, train[1][ids], temperature=1.0)
    return f"{error.mean():+.4f} ± {error.std() / len(ids) ** 0.5:.4f}, {error.std():.3f}"


def _student(train: Any, test: Any, read: Callable[[Tensor], Any], seed: int) -> tuple[float, float, nn.Module]:
    """Accuracy and KL from the teacher, on new samples, of a student who learns from what is read."""
    torch.manual_seed(seed)
    student = nn.Linear(DIMENSIONS, CLASSES)
    optimizer = torch.optim.AdamW(student.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=EPOCHS * (TRAIN // 256))
    for _ in range(EPOCHS):
        for ids in torch.randperm(TRAIN).split(256):
            loss = losses.kd(student(train[0][ids]), read(ids), temperature=1.0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        logits = student(test[0])
        kl = losses.kd(logits, test[1], temperature=1.0).mean()
    return float((logits.argmax(-1) == test[2]).float().mean()), float(kl), student


# -- accidents ---------------------------------------------------------------------------------------------------------


def accidents() -> None:
    """Flipped bits and kills."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = [_flips(Path(name) / "flips"), _kills(Path(name))]
    table("accident | tries | found by `verify`, by name | refused when read | completed to the same bytes", rows)


def _outputs(samples: int = 2000, classes: int = 100) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(samples, classes, generator=generator)).log_softmax(-1)
    return log_probs, torch.arange(samples) % classes


def _flips(folder: Path) -> str:
    record_of(folder, TopK(10), *_outputs(), shard_size=512)
    paths, draw, found, refused = _files(folder), random.Random(0), 0, 0
    for _ in range(FLIPS):
        path, flip = _flip(draw.choice(paths), draw)
        whole = path.read_bytes()
        flip()
        found += any(path.name in problem for problem in verify(folder).problems)
        try:
            Record(folder).read(torch.arange(2000))
        except InputError as error:
            refused += path.name in str(error)
        path.write_bytes(whole)
    assert not verify(folder).problems
    return f"a bit flipped | {FLIPS} | {found} | {refused} | -"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def _kills(folder: Path) -> str:
    """Recordings that are killed five times each at random moments, and then left alone."""
    log_probs, labels = _outputs()
    started = time.monotonic()
    record_of(folder / "whole", Sampled(10), log_probs, labels, shard_size=64)
    length = time.monotonic() - started
    expected = {path.relative_to(folder / "whole"): path.read_bytes() for path in _files(folder / "whole")}
    draw, killed, same, number = random.Random(0), 0, 0, 0
    while killed < KILLS:
        work, number = folder / f"killed-{number}", number + 1
        for _ in range(min(5, KILLS - killed)):
            killed += _killed(
                lambda work=work: record_of(work, Sampled(10), log_probs, labels, shard_size=64), draw, length
            )
        record_of(work, Sampled(10), log_probs, labels, shard_size=64)
        same += {path.relative_to(work): path.read_bytes() for path in _files(work)} == expected
    return f"killed while it writes | {killed}, of {number} recordings | - | - | {same} of {number}"


def _killed(work: Callable[[], Any], draw: random.Random, length: float) -> bool:
    """Whether a forked process was killed before it was ready."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(draw.uniform(0.0, 0.5) * length)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


PARTS = {"read": read, "curve": curve, "accidents": accidents}


def main() -> None:
    """Run the parts that are named, or all."""
    print("python", *sys.argv)
    print(
        f"preceptor {preceptor.__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} cores, {platform.machine()}, {time.strftime('%Y-%m-%d')}"
    )
    for name in sys.argv[1:] or PARTS:
        started = time.monotonic()
        PARTS[name]()
        print(f"\n({name}: {time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
