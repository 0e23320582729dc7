"""Whatever a user hands in, the answer is a result or one sentence, and a folder that was refused is as it was."""

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from typer.testing import CliRunner

from preceptor import assess
from preceptor.cli import app
from preceptor.data.dataset import ArrayDataset
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.tasks.teacher import Lookup
from preceptor.training import distill, teach


def examples(number: int) -> settings:
    """So many, the same in every run: a failure is found by whoever makes it, not by the next one."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


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


@examples(250)
@pytest.mark.parametrize("verb", ["teach", "distill"])
@given(draw=st.data())
def test_recipes(verb: str, draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    full = TEACH if verb == "teach" else DISTILL
    path = draw.draw(st.sampled_from(list(keys(full))))
    value = draw.draw(st.sampled_from(ODD) | JSON)
    if path[-1] == "num_workers" and value in (1, 2, 3):  # right, and slow to start
        value = -1
    recipe = {key: kept for key, kept in changed(full, path, value).items() if key not in ("verb", "teacher")}
    folder = tmp_path_factory.mktemp("runs") / "run"
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
ANY_ARRAY = st.sampled_from(STRANGE) | arrays.arrays(
    arrays.scalar_dtypes(), st.sampled_from([(N, C), (N,)]) | arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
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


@examples(400)
@given(call=st.sampled_from(ARRAYS), array=ANY_ARRAY)
def test_arrays(call: tuple[Callable[..., None], str], array: Any) -> None:
    refused_or_answered(*call, array)


@examples(100)
@given(call=st.sampled_from(SCALARS), value=st.sampled_from(ODD_SCALARS))
def test_scalars(call: tuple[Callable[..., None], str], value: Any) -> None:
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


@examples(100)
@given(command=st.sampled_from(COMMANDS), word=st.sampled_from(WORDS))
def test_commands(command: tuple[str, ...], word: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cwd")
    np.savez(folder / "x.npz", logits=LOGITS, labels=LABELS)
    dry = ["--dry-run"] if command[0] in ("teach", "distill", "study", "generations") else []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, [*(part.replace("{}", word) for part in command), *dry])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code in (0, 1, 2)
