"""What accidents do to finished and to running work: flipped bits, swapped files, kills; nothing may change in silence.

    python benchmarks/attacks.py

Aim: every one of 200 flipped bits and 20 swapped files is named by `preceptor verify`, and refused, naming the file, by
everything that reads it; a run killed 20 times at random moments ends with the tensors of one that was never stopped.
And the checks cost under 5 % of `assess` on a run of 100 MB.
"""

import contextlib
import io
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

import preceptor
from preceptor import runs
from preceptor.errors import InputError
from preceptor.runs import files, integrity
from preceptor.runs.verify import verify
from preceptor.study.grid import run_study
from preceptor.study.recipe import Study
from preceptor.study.teachers import assess_teachers, keep_teaching

BASE: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "split": {"train": 300, "heldout": 200, "test": "rest"},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "training": {"epochs": 3, "batch_size": 32, "device": "cpu"},
}
FLIPS, SWAPS, KILLS = 200, 20, 20


def main() -> None:
    """Make work, attack it, and print what came of it as a table."""
    torch.set_num_threads(1)
    print("python", *sys.argv)
    print(
        f"preceptor {preceptor.__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}\n"
    )
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(name)
        rows = [*_of_files(folder), _kills(folder)]
        cost = _cost(folder)
    print("| attack | tries | named by `verify` | refused by name | refused, not by name | read by nothing | silent |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    size, checks, whole = cost
    print(
        f"\n`preceptor assess` of a run of {size:.0f} MB takes {whole:.2f} s as a command, of which the checks are "
        f"{checks:.3f} s, {checks / whole:.1%}."
    )


# -- flips and swaps ---------------------------------------------------------------------------------------------------


def _of_files(folder: Path) -> Iterator[tuple[Any, ...]]:
    """A row for the flipped bits of runs, of a study, and for swapped files."""
    for name, seed in (("run", 0), ("other", 1)):
        run = folder / "work" / name
        preceptor.teach(_keeping(seed), run, average={"kind": "ema", "decay": 0.9}, calibrate=True)
        keep_teaching(run)
    run_study(_study(), folder / "work" / "study", command="attacks")
    draw = random.Random(0)
    run, study = folder / "work" / "run", folder / "work" / "study"
    attacked = {"a run": _files(run), "a study": _files(study)}
    for what, found in attacked.items():
        flips = [_flip(draw.choice(found), draw) for _ in range(FLIPS // len(attacked))]
        yield _row(f"a bit of {what} flipped", flips, folder / "work")
    swaps = [_swap(path, run, folder / "work" / "other") for path in draw.choices(_files(run), k=SWAPS)]
    yield _row("a file of another run's in its place", swaps, folder / "work")


def _keeping(seed: int) -> dict[str, Any]:
    return BASE | {"training": BASE["training"] | {"keep": "all"}, "seed": seed}


def _study() -> Study:
    losses = {"kd": {"loss": "kd"}}
    return Study.model_validate(
        {"name": "small", "seeds": [0, 1], "teachers": {"ce": {"objective": "cross_entropy"}}, "losses": losses}
        | dict.fromkeys(("teach", "distill", "baseline"), BASE)
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "report.html"))


def _flip(path: Path, draw: random.Random) -> tuple[Path, Callable[[], None]]:
    bit = draw.randrange(8 * path.stat().st_size)

    def flip() -> None:
        content = bytearray(path.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    return path, flip


def _swap(path: Path, run: Path, other: Path) -> tuple[Path, Callable[[], None]]:
    return path, lambda: _copied(other / path.relative_to(run), path)


def _copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _row(what: str, attacks: list[tuple[Path, Callable[[], None]]], work: Path) -> tuple[Any, ...]:
    """Try every attack on the whole work, and undo it."""
    counts: Counter[str] = Counter()
    for path, attack in attacks:
        whole = path.read_bytes()
        attack()
        if path.read_bytes() == whole:  # a swap of files that are alike
            counts["same"] += 1
            continue
        counts["verify"] += any(path.name in problem for problem in verify(work).problems)
        counts[_read(path, work)] += 1
        path.write_bytes(whole)
    tried = len(attacks) - counts["same"]
    return what, tried, counts["verify"], counts["refused"], counts["unnamed"], counts["nothing"], counts["silent"]


def _read(path: Path, work: Path) -> str:
    """What everything that reads the work makes of it now."""
    outcomes = [_outcome(use, path) for use in _uses(work)]
    return next((worst for worst in ("silent", "refused", "unnamed") if worst in outcomes), "nothing")


def _outcome(use: tuple[str, Callable[[], Any]], path: Path) -> str:
    name, call = use
    try:
        found = _plain(call())
    except InputError as error:
        return "refused" if path.name in str(error) or path.parent.name in str(error) else "unnamed"
    expected = _EXPECTED.setdefault(name, found)
    return "same" if found == expected else "silent"


_EXPECTED: dict[str, Any] = {}


def _uses(work: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    run, study = work / "run", work / "study"
    yield "result", lambda: runs.read_result(run)
    yield (
        "the verb again",
        lambda: preceptor.teach(_keeping(0), run, average={"kind": "ema", "decay": 0.9}, calibrate=True),
    )
    for selector in ("", ":best", ":average", ":teaching", ":epoch-1", ":epoch-2"):
        yield f"load{selector}", lambda selector=selector: _outputs(preceptor.load(f"{run}{selector}"))
    yield "assess", lambda: assess_teachers([f"{run}", f"{run}:best", f"{run}:epochs"], transfer=False)[0].to_dict()
    yield "choice", lambda: runs.read_choice(run)
    yield "study", lambda: run_study(_study(), study, command="attacks")
    for part in sorted(study.rglob("recipe.yaml")):
        yield str(part), lambda part=part: _all_of(part.parent)


def _all_of(run: Path) -> list[Any]:
    """All that stands in a run: of its stack or its one model."""
    weights = [
        runs.read_weights(path).tensors for path in sorted(run.glob("*.safetensors")) if path.stem in ("last", "best")
    ]
    stored = runs.read_predictions(run)
    told = [runs.read_result(run), runs.read_members(run), runs.read_objects(run), runs.read_splits(run)]
    return [_plain(weights), _plain(stored), told, str(runs.read_recipe(run))]


def _outputs(model: torch.nn.Module) -> list[float]:
    """What a model says of 64 fixed inputs."""
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 64 * 64).view(64, 1, 8, 8)).flatten().tolist()


def _plain(value: Any) -> Any:
    """Tensors as lists, so that two outcomes can be compared; the time of day left out."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


# -- kills -------------------------------------------------------------------------------------------------------------


def _kills(folder: Path) -> tuple[Any, ...]:
    """A run that is killed at random moments, and the same run left alone: are their files the same, byte for byte?"""
    command = [sys.executable, "-m", "preceptor", "teach", "teach-digits", "training.epochs=60", "training.device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    started = time.monotonic()
    subprocess.run([*command, "--out", str(folder / "whole")], check=True, **quiet)  # type: ignore[call-overload]
    length, draw, killed = time.monotonic() - started, random.Random(0), 0
    for _ in range(KILLS):
        with subprocess.Popen([*command, "--out", str(folder / "killed")], **quiet) as process:  # type: ignore[call-overload]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.3, 1.0) * length / 3)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    subprocess.run([*command, "--out", str(folder / "killed")], check=True, **quiet)  # type: ignore[call-overload]
    different = [
        name
        for name in ("last.safetensors", "best.safetensors", "predictions.safetensors", "splits.json", "recipe.yaml")
        if integrity.digest_of(folder / "whole" / name) != integrity.digest_of(folder / "killed" / name)
    ]
    assert not verify(folder / "killed").problems
    return f"a run killed {killed} times, its files compared", 5, "-", "-", "-", "-", len(different)


# -- cost --------------------------------------------------------------------------------------------------------------


def _cost(folder: Path) -> tuple[float, float, float]:
    """Megabytes of a run; seconds that checking its files takes in `assess`, and that the command takes as a whole."""
    run = folder / "large"
    preceptor.teach(BASE | {"model": {"name": "mlp", "hidden": [3450, 3450]}}, run, epochs=1)
    command = [sys.executable, "-m", "preceptor", "assess", str(run)]
    whole, checks = [], []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        whole.append(time.perf_counter() - started)
        checks.append(_checking(lambda: assess_teachers([str(run)])))
    return sum(path.stat().st_size for path in run.glob("*.safetensors")) / 1e6, median(checks), median(whole)


def _checking(call: Callable[[], Any]) -> float:
    """Seconds that a call spends in digests of files, as in a process of its own."""
    integrity._digest.cache_clear()
    spent, digest = 0.0, files.digest

    def timed(path: Path) -> str:
        nonlocal spent
        started = time.perf_counter()
        found = digest(path)
        spent += time.perf_counter() - started
        return found

    files.digest = timed
    try:
        call()
    finally:
        files.digest = digest
    return spent


if __name__ == "__main__":
    main()
