"""Whatever a user hands in, the answer is a result or one sentence, and a folder that was refused is as it was.

Examples are drawn from generators with seeds of their own, not by hypothesis: what that draws depends, even when
derandomized, on which modules are loaded, so that each order of the tests would have others. `NONSENSE_SEED=1` and so
on hunt among examples that the suite does not try.
"""

import datetime
import itertools
import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from preceptor import assess
from preceptor.cli import app
from preceptor.data.dataset import ArrayDataset
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.tasks.teacher import Lookup
from preceptor.training import distill, teach

SEED = os.environ.get("NONSENSE_SEED", "0")


def try_examples(attempt: Callable[[random.Random], None], number: int) -> None:
    """So many, the same in every run; an error says which it was."""
    for example in range(number):
        try:
            attempt(random.Random(f"{SEED} {example}"))
        except Exception as error:
            error.add_note(f"example {example} under NONSENSE_SEED={SEED}")
            raise


# -- recipes -----------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "mlp", "hidden": [4]},
    "split": {"train": 40, "heldout": 30, "test": 30},
    "training": {"epochs": 1, "batch_size": 32, "device": "cpu"},
}
TEACH = TeachRecipe(**BASE, objective={"name": "label_smoothing", "smoothing": 0.1}).model_dump(mode="json")  # type: ignore[arg-type]
DISTILL = DistillRecipe(
    **BASE,
    loss={"name": "wttm", "temperature": 2.0},  # type: ignore[arg-type]
    average={"kind": "swa"},  # type: ignore[arg-type]
    transform={"kind": "temperature", "temperature": 2.0},  # type: ignore[arg-type]
).model_dump(mode="json")
# A path that is none, code that is none, numbers beyond reason, types that no YAML has.
ODD = [
    *(None, True, False, 0, -1, 3, 0.5, -0.5, 1.5, 1e308, -1e308, 1e-320, 1 << 70, -(1 << 70)),
    *(float("nan"), float("inf"), "", " ", "x", "..x:y", "a.b:c", "os:path", "../..", "\x00", "1e9", "é", "x" * 500),
    *([], [[]], [None], [-3], [0], ["a"], [0.9, 1.5], {}, {"name": 1}, {"name": None}, {"name": "mlp", "x": 1}, {1: 2}),
    *({"": None}, b"bytes", object(), datetime.date(2020, 1, 1), (1, 2), {1, 2}, Path("x"), "cuda:9", "fp16", "adamw"),
]


def any_float(draw: random.Random) -> float:
    """Any bits at all, or a number as people write them."""
    return draw.choice([struct.unpack("d", draw.randbytes(8))[0], round(draw.uniform(-3, 3), 1), draw.gauss(0, 1)])


def any_text(draw: random.Random) -> str:
    characters = [chr(draw.choice([draw.randrange(128), draw.randrange(0xD800)])) for _ in range(draw.randrange(6))]
    return "".join(characters)


def any_json(draw: random.Random, depth: int = 2) -> Any:
    kind = draw.randrange(7 if depth else 5)
    if kind < 5:
        return [None, draw.random() < 0.5, draw.randint(-2, 3), any_float(draw), any_text(draw)][kind]
    values = [any_json(draw, depth - 1) for _ in range(draw.randrange(4))]
    return values if kind == 5 else {any_text(draw): value for value in values}


def keys(recipe: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a recipe, nested ones as paths, and one of each mapping that it does not have."""
    for key, value in recipe.items():
        if key not in ("verb", "teacher"):
            yield (*path, key)
            if isinstance(value, dict):
                yield from keys(value, (*path, key))
    yield (*path, "zzz")


def changed(recipe: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    rest = recipe if isinstance(recipe, dict) else {}
    return rest | {path[0]: changed(rest.get(path[0]), path[1:], value)}


@pytest.mark.parametrize("verb", ["teach", "distill"])
def test_recipes(verb: str, tmp_path: Path) -> None:
    full = TEACH if verb == "teach" else DISTILL

    def attempt(draw: random.Random) -> None:
        value = draw.choice([draw.choice(ODD), any_json(draw)])
        refused_recipe_or_result(verb, full, draw.choice(list(keys(full))), value, tmp_path / str(next(count)))

    count = itertools.count()
    try_examples(attempt, 250)


def refused_recipe_or_result(
    verb: str, full: Mapping[str, Any], path: tuple[str, ...], value: Any, folder: Path
) -> None:
    if path[-1] == "num_workers" and value in (1, 2, 3):  # right, and slow to start
        value = -1
    recipe = {key: kept for key, kept in changed(full, path, value).items() if key not in ("verb", "teacher")}
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    try:
        teach(recipe, folder) if verb == "teach" else distill(recipe, folder, teacher=net)
    except InputError as error:
        one_sentence(error)
        assert not folder.exists() or [p for p in folder.iterdir() if not p.name.startswith(".")] == []


def one_sentence(error: InputError) -> None:
    text = str(error)
    assert text.strip(), "nothing is said"
    assert len(text) < 1500, text


# -- arrays ------------------------------------------------------------------------------------------------------------

N, C = 24, 3
LOGITS = np.random.default_rng(0).normal(size=(N, C))
LABELS = np.random.default_rng(1).integers(0, C, N)
TENSOR = torch.tensor(LOGITS)
STRANGE = [
    *(None, "x", 3, [], {}, {1, 2}, len, float, [[1, 2], [3]], (value for value in [1]), [None] * N, ["a"] * N),
    *(LOGITS.astype(dtype) for dtype in ("f2", "i8", "u1", "?", "c16", "U", "S", "O", "M8[s]", np.longdouble)),
    *(LOGITS[:0], LOGITS[:1], LOGITS[:, :1], LOGITS[:, :0], LOGITS.T, LOGITS[None], LOGITS[::-1], LOGITS * 1e300),
    *(np.where(LOGITS > 1, bad, LOGITS) for bad in (np.nan, np.inf, -np.inf)),
    *(np.full((N, C), -np.inf), np.full((N, C), None), np.ma.array(LOGITS, mask=LOGITS > 1), np.zeros((N, C))),
    *(TENSOR.to_sparse(), torch.empty(N, C, device="meta"), TENSOR.bfloat16(), TENSOR.to(torch.float8_e5m2)),
    *(TENSOR.clone().requires_grad_(), TENSOR.half(), nn.Parameter(TENSOR), TENSOR.tolist()),
    *(LABELS, LABELS - 1, LABELS + 0.5, LABELS[:, None], LABELS.astype("u8"), LABELS.astype(str), np.eye(C)[LABELS]),
    *(np.where(LABELS == 0, big, LABELS) for big in (-100, 255, 2**62)),
    *(np.zeros(N), -np.ones(N), np.full(N, np.nan), np.arange(N), np.ones(N - 1), np.array(["a", "b"] * (N // 2))),
]
KINDS = ["?", *"bhilqBHILQ", *"efdg", *"FDG", "S3", "U2", *(f"{kind}8[{unit}]" for kind in "mM" for unit in ("D", "s"))]


def any_array(draw: random.Random) -> Any:
    """Of any type and shape, and of any bits, or of small numbers."""
    if draw.random() < 0.5:
        return draw.choice(STRANGE)
    dtype = np.dtype(draw.choice(KINDS))
    shape = draw.choice([(N, C), (N,), tuple(draw.randrange(4) for _ in range(draw.randrange(4)))])
    size = int(np.prod(shape))
    if dtype.kind in "biufc" and draw.random() < 0.5:
        return np.array([draw.randint(0, 2) for _ in range(size)]).astype(dtype).reshape(shape)
    if dtype.kind == "U":
        return np.array([any_text(draw) for _ in range(size)], dtype=dtype).reshape(shape)
    return np.frombuffer(bytearray(draw.randbytes(size * dtype.itemsize)), dtype).reshape(shape)


ODD_SCALARS = [None, True, 0, -1, 0.5, 2, float("nan"), float("inf"), "x", "0.5", [], {}, 1e308, 1 << 70, b"x", (1, 2)]


def compare(**odd: Any) -> None:
    given = {"logits": LOGITS, "labels": LABELS} | odd
    found = assess.compare({"a": given.pop("logits"), "b": LOGITS[:, ::-1]}, given.pop("labels"), resamples=20, **given)
    assert str(found)
    assert found.to_dict()


def choose(**odd: Any) -> None:
    given = {"logits": LOGITS, "labels": LABELS, "families": ["temperature"]} | odd
    assert str(assess.choose({"a": given.pop("logits"), "b": LOGITS[:, ::-1]}, given.pop("labels"), folds=2, **given))


def search(**odd: Any) -> None:
    given = {"logits": LOGITS, "labels": LABELS} | odd
    assess.search_transform(given.pop("logits"), given.pop("labels"), "temperature", **{"folds": 2, **given})


def data(logits: Any = TENSOR, labels: Any = LABELS) -> None:
    dataset = ArrayDataset(logits, labels)
    teach(data=(dataset, dataset), model={"name": "mlp", "hidden": [4]}, epochs=1, device="cpu", split={"heldout": 6})


def teacher(logits: Any) -> None:
    dataset = ArrayDataset(TENSOR.float(), LABELS)
    what = {"data": (dataset, dataset), "model": {"name": "mlp", "hidden": [4]}, "epochs": 1, "device": "cpu"}
    distill(teacher=lambda batch: logits, loss="kd", split={"heldout": 6}, **what)  # type: ignore[arg-type]


ARRAYS: list[tuple[Callable[..., None], str]] = [
    *itertools.product((compare, choose, search), ("logits", "labels", "counts", "truth", "groups", "weights")),
    *((compare, "ids"), (compare, "class_names"), (data, "logits"), (data, "labels"), (teacher, "logits")),
]
SCALARS: list[tuple[Callable[..., None], str]] = [
    *itertools.product((compare, choose, search), ("temperature", "level", "seed", "loss")),
    *((compare, "criterion"), (compare, "coefficients"), (search, "folds")),
]


def test_arrays() -> None:
    try_examples(lambda draw: refused_or_answered(*draw.choice(ARRAYS), any_array(draw)), 400)


@pytest.mark.parametrize("call", SCALARS, ids=lambda call: f"{call[0].__name__}-{call[1]}")
def test_scalars(call: tuple[Callable[..., None], str]) -> None:
    for value in ODD_SCALARS:
        refused_or_answered(*call, value)


@pytest.mark.parametrize("table", STRANGE, ids=range(len(STRANGE)))
def test_tables(table: Any) -> None:
    dataset = ArrayDataset(TENSOR.float(), LABELS)
    what = {"data": (dataset, dataset), "model": {"name": "mlp", "hidden": [4]}, "epochs": 1, "device": "cpu"}
    try:
        distill(teacher=Lookup(table), loss="kd", split={"heldout": 6}, **what)  # type: ignore[arg-type]
    except InputError as error:
        one_sentence(error)


def refused_or_answered(function: Callable[..., None], role: str, value: Any) -> None:
    try:
        with np.errstate(all="ignore"):
            function(**{role: value})
    except InputError as error:
        one_sentence(error)


# -- the command line --------------------------------------------------------------------------------------------------

WORDS = ["", "x", "-1", "1e9", "nan", "[", "{a", "é", "..", "x:y", "/", "a=b", "=", "x[/b]", "[0", "{name: kd}", "null"]
COMMANDS = [
    *(("teach", "teach-digits", key) for key in ("training.epochs={}", "model.hidden={}", "objective={}", "zzz={}")),
    *(("teach", "{}"), ("distill", "distill-digits", "--teacher", "{}"), ("teach", "teach-digits", "--select", "{}")),
    *(("distill", "distill-digits", "--teacher", "auto", "{}"), ("distill", "distill-digits", "--model", "{}")),
    *(("assess", "{}"), ("assess", "{}+{}"), ("assess", "{}:best"), ("report", "{}"), ("verify", "{}")),
    *(
        ("assess", "x.npz", option, "{}")
        for option in ("--loss", "--labels", "--temperature", "--level", "--criterion")
    ),
    *(("generations", "{}"), ("study", "quickstart", "workers={}"), ("quickstart", "--resume", "{}")),
]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(draw: random.Random) -> None:
        command, word = draw.choice(COMMANDS), draw.choice([*WORDS, any_text(draw)])
        monkeypatch.chdir(tmp_path)
        dry = ["--dry-run"] if command[0] in ("teach", "distill", "study", "generations") else []
        result = CliRunner().invoke(app, [*(part.replace("{}", word) for part in command), *dry])
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        assert result.exit_code in (0, 1, 2)

    np.savez(tmp_path / "x.npz", logits=LOGITS, labels=LABELS)
    try_examples(attempt, 100)
