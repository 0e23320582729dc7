"""What a student learns from, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeacherRef, parse
from preceptor.tasks.teacher import Teacher
from preceptor.training import Lookup, Mixture, as_teacher, distill, load_model, load_teacher, teach
from preceptor.training.data.samples import cut, load_data
from preceptor.training.loop.loop import Loop
from training.toys import RECIPE, assert_close, distill_recipe, metrics, teach_recipe, weights


class Net(nn.Module):
    """Batch normalisation and dropout: everything that eval mode is for."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.norm = nn.BatchNorm1d(num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(x.flatten(1))))


def probe() -> dict[str, Tensor]:
    return {"input": torch.randn(6, 1, 8, 8), "index": torch.arange(6)}


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: [net], lambda net: [(net, 2.0), net]])
@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_teacher_is_left_as_it_was(wrap: Any, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.train()
    net.norm.eval()  # frozen statistics, say
    net.linear.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    loops = []
    monkeypatch.setattr(Loop, "run", lambda self, run=Loop.run: (loops.append(self), run(self))[1])
    distill(distill_recipe("ce_weight=0", f"cache={cache}"), teacher=wrap(net), model=Net)
    assert_close(net.state_dict(), before, 0)
    assert [module.training for module in (net, net.linear, net.norm, net.dropout)] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in net.parameters()] == [True, False, True, True]
    assert all(parameter.grad is None for parameter in net.parameters())
    optimized = {id(p) for group in loops[0].optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in loops[0].raw_model.parameters()}
    assert not optimized & {id(p) for p in net.parameters()}


def test_a_module_teaches_in_eval_mode() -> None:
    net, batch = Net(), probe()
    teacher = as_teacher(net)
    net.train()  # somebody else's hand
    output = teacher(batch)
    assert not output.requires_grad
    assert net.training
    assert torch.equal(output, net.eval()(batch["input"]))
    assert torch.equal(output, teacher(batch))


def test_a_mixture_averages_probabilities() -> None:
    batch, nets = probe(), [Net().eval(), Net().eval()]
    mixed = as_teacher([(nets[0], 3.0), (nets[1], 1.0)])
    assert isinstance(mixed, Mixture)
    expected = 0.75 * nets[0](batch["input"]).softmax(-1) + 0.25 * nets[1](batch["input"]).softmax(-1)
    torch.testing.assert_close(mixed(batch).exp(), expected)
    nested = as_teacher([[nets[0], nets[0]], nets[1]])
    equal = as_teacher(nets)
    torch.testing.assert_close(nested(batch), equal(batch))


def test_a_lookup_goes_by_index() -> None:
    table = torch.randn(2, 9, 3)
    index = torch.tensor([[4, 0], [8, 8], [1, 2]])
    found = Lookup(table, [1, 0, 1])({"index": index})
    for model, row in enumerate([1, 0, 1]):
        assert torch.equal(found[model], table[row][index[model]])
    assert torch.equal(Lookup(table[0])({"index": index[0]}), table[0][index[0]])


def test_temperature_and_clip() -> None:
    net, batch = Net().eval(), probe()
    logits = net(batch["input"])
    torch.testing.assert_close(Teacher(net, temperature=2.0)(batch), logits / 2)
    clipped = Teacher(net, distribution="clip")(batch).exp()
    torch.testing.assert_close(clipped.sum(-1), torch.ones(6))


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ([], "a module, or a list of them, not an empty one"),
        (3, "a module, or a list of them, not a int"),
        ("run", "a module, or a list of them, not a str"),
        ([(nn.Linear(2, 2), 0.0)], r"weights are \[0.0\]; give positive numbers"),
        ([(nn.Linear(2, 2), float("nan"))], r"weights are \[nan\]; give positive numbers"),
    ],
)
def test_what_is_no_teacher(teacher: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        as_teacher(teacher)


# -- teachers from runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    teach(teach_recipe("calibrate=true", "average.decay=0.5"), folder / "a")
    teach(teach_recipe("objective=mse", "distribution=clip", "streams.initialization=1"), folder / "b")
    return folder


def test_a_run_is_a_teacher(taught: Path, tmp_path: Path) -> None:
    distill(distill_recipe(f"teacher={taught / 'a'}"), tmp_path / "by-name")
    model, found = load_model(taught / "a" / "last.safetensors")
    assert (found.num_classes, found.input_shape, found.class_names) == (10, (1, 8, 8), tuple("0123456789"))
    assert found.preprocessing["divide_by"] == 16.0
    distill(distill_recipe(), tmp_path / "by-hand", teacher=model)
    assert_close(weights(tmp_path / "by-name"), weights(tmp_path / "by-hand"), 0)


def test_two_runs_are_a_mixture(taught: Path, tmp_path: Path) -> None:
    both = f"teacher=[{{run: {taught / 'a'}, weights: best, weight: 2}}, {{run: {taught / 'b'}}}]"
    distill(distill_recipe(both), tmp_path / "by-name")
    first = load_teacher(TeacherRef(run=taught / "a", weights="best"))
    second = load_teacher(TeacherRef(run=taught / "b"))
    assert second.distribution == "clip"
    distill(distill_recipe(), tmp_path / "by-hand", teacher=[(first, 2.0), (second, 1.0)])
    assert_close(weights(tmp_path / "by-name"), weights(tmp_path / "by-hand"), 1e-6)


def test_a_calibrated_teacher_has_its_temperature(taught: Path) -> None:
    plain, calibrated = (load_teacher(TeacherRef(run=taught / "a", calibrated=c)) for c in (False, True))
    assert plain.temperature == 1.0
    assert calibrated.temperature != 1.0
    batch = probe()
    torch.testing.assert_close(calibrated(batch), plain(batch) / calibrated.temperature)
    with pytest.raises(InputError, match="has no temperature of its own; teach it with calibrate=true"):
        load_teacher(TeacherRef(run=taught / "b", calibrated=True))


def test_missing_weights_are_named(taught: Path) -> None:
    with pytest.raises(InputError, match="has no 'average' weights; it has: last, best"):
        load_teacher(TeacherRef(run=taught / "b", weights="average"))
    assert load_teacher(TeacherRef(run=taught / "a", weights="average"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of three epochs that kept every epoch, and some moments in between: one model, and a stack."""
    folder = tmp_path_factory.mktemp("kept")
    recipe = teach_recipe("training.epochs=3", "training.keep=all", "training.checkpoint_every=2", "average.decay=0.5")
    teach(recipe, folder / "one")
    teach(recipe, folder / "stack", seeds=[7, 8])
    return folder


def test_a_teacher_after_some_epochs(kept: Path, tmp_path: Path) -> None:
    batch = probe()
    last = load_teacher(TeacherRef(run=kept / "one"))
    assert torch.equal(load_teacher(TeacherRef(run=kept / "one", epoch=3))(batch), last(batch))
    # The same training, told to end earlier: its schedule is constant, so that it knows no end.
    short = ["training.epochs=1", "schedule.name=constant"]
    teach(teach_recipe(*short), tmp_path / "short")
    teach(teach_recipe(*short, "training.epochs=2", "training.keep=all"), tmp_path / "long")
    early = load_teacher(TeacherRef(run=tmp_path / "long", epoch=1))
    assert torch.equal(early(batch), load_teacher(TeacherRef(run=tmp_path / "short"))(batch))
    distill(distill_recipe(f"teacher={{run: {kept / 'one'}, epoch: 2}}"), tmp_path / "student")


def test_a_teacher_from_a_stack(kept: Path) -> None:
    batch = probe()
    for member, seed in enumerate((7, 8)):
        reference = TeacherRef(run=kept / "stack", member=member)
        assert torch.equal(
            load_teacher(reference)(batch), load_model(kept / "stack/last.safetensors", member)[0](batch["input"])
        )
        at_end = reference.model_copy(update={"epoch": 3})
        torch.testing.assert_close(load_teacher(at_end)(batch), load_teacher(reference)(batch))
        recipe = teach_recipe(f"seed={seed}")
        samples = cut(recipe, load_data(recipe), seed)
        parts = runs.parts_of(kept / "stack", member)
        assert all(torch.equal(parts[name], samples.parts[name]) for name in ("train", "heldout", "test"))


@pytest.mark.parametrize(
    ("run", "options", "sentence"),
    [
        ("one", {"epoch": 4}, "has not kept epoch 4; it has: 1, 2, 3; train with training.keep=all"),
        ("one", {"member": 0}, "holds a single model, not a stack; leave member=0 out"),
        ("stack", {}, "holds a stack of 2 models; say which member, e.g. member=0"),
        ("stack", {"epoch": 1}, "holds a stack of 2 models; say which member"),
        ("stack", {"member": 2}, "holds members 0 to 1, not member=2"),
    ],
)
def test_moments_and_members_that_are_not_there(kept: Path, run: str, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_teacher(TeacherRef(run=kept / run, **options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epoch": 2, "weights": "best"}, "other moments of its training; give one of the two"),
        ({"epoch": 2, "calibrated": True}, "a temperature is fitted to the weights that a run ends with"),
        ({"weights": "teaching", "calibrated": True}, "bring a transform of their own"),
        ({"epoch": 0}, "greater than or equal to 1"),
        ({"member": -1}, "greater than or equal to 0"),
    ],
)
def test_references_that_contradict_themselves(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse(DistillRecipe, {**RECIPE, "teacher": {"run": "some", **options}})


def test_a_student_on_the_training_samples_of_its_teacher_in_a_stack(kept: Path) -> None:
    with pytest.raises(InputError, match="was trained on"):
        distill(distill_recipe(f"teacher={{run: {kept / 'stack'}, member: 0}}", "seed=8"))
    distill(distill_recipe(f"teacher={{run: {kept / 'stack'}, member: 1}}", "seed=8", "training.epochs=1"))


def digits_of(classes: tuple[str, ...]) -> Data:
    """The first classes of a data set like digits, under some names."""
    count = len(classes)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % count
    return Data(ArrayDataset(torch.randn(400, 1, 8, 8, generator=generator), labels), None, classes)


def test_class_count_and_order_must_agree(taught: Path, tmp_path: Path) -> None:
    recipe = distill_recipe(f"teacher={taught / 'a'}")
    with pytest.raises(InputError, match="the teacher has 10 classes and the student 4"):
        distill(recipe, tmp_path / "run", data=digits_of(tuple("abcd")))
    teach(teach_recipe(), tmp_path / "named", data=digits_of(("cat", "dog", "owl")))
    named = distill_recipe(f"teacher={tmp_path / 'named'}")
    sentence = "class 1 is 'dog' to the teacher and 'owl' to the student; put the classes"
    with pytest.raises(InputError, match=sentence):
        distill(named, tmp_path / "run", data=digits_of(("cat", "owl", "dog")))
    mixture = distill_recipe(f"teacher=[{tmp_path / 'named'}, {tmp_path / 'named'}]")
    with pytest.raises(InputError, match=sentence):
        distill(mixture, tmp_path / "run", data=digits_of(("cat", "owl", "dog")))
    assert not (tmp_path / "run").exists()
    distill(named, data=digits_of(("cat", "dog", "owl")))
    distill(named, data=digits_of(("0", "1", "2")))  # a data set without names


@pytest.mark.parametrize("cache", ["true", "false"])
@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (lambda batch: torch.zeros(len(batch["index"]), 7), "the teacher has 7 classes and the student 10"),
        (lambda batch: torch.zeros(1, 10), r"has shape \(1, 10\) for 16 samples"),
        (lambda batch: [0.0], "the teacher returns a list"),
        (Lookup(torch.zeros(5, 10)), "table has 5 rows and the data set 1797 samples"),
        ([Net(), Lookup(torch.zeros(5, 10))], "table has 5 rows and the data set 1797 samples"),
    ],
)
def test_an_output_that_does_not_fit(teacher: Any, sentence: str, cache: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        distill(distill_recipe(f"cache={cache}"), tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_nan_is_named(tmp_path: Path) -> None:
    def teacher(batch: Any) -> Tensor:
        return torch.where(batch["index"][:, None] % 50 == 7, torch.nan, torch.zeros(len(batch["index"]), 10))

    with pytest.raises(InputError, match=r"the teacher's output for sample \d*[05]7 holds nan"):
        distill(distill_recipe(), teacher=teacher)
    with pytest.raises(InputError, match=r"the teacher.s output for sample \d*[05]7 holds nan"):
        distill(distill_recipe("cache=false"), teacher=teacher)


def test_a_teacher_may_be_certain(tmp_path: Path) -> None:
    def teacher(batch: Any) -> Tensor:
        return torch.where(torch.eye(10).bool()[batch["label"]], 0.0, -torch.inf)

    distill(distill_recipe("ce_weight=0"), tmp_path / "run", teacher=teacher)
    assert metrics(tmp_path / "run")[-1]["train"]["distill"] > 0


def test_weights_load_without_preceptor(taught: Path, tmp_path: Path) -> None:
    distill(distill_recipe(f"teacher={taught / 'a'}"), tmp_path / "run")
    path = tmp_path / "run" / "best.safetensors"
    script = f"""
import sys
sys.modules["preceptor"] = None
try:
    import preceptor
except ImportError:
    pass
else:
    raise SystemExit("preceptor is there")
import torch
from torch import nn
from safetensors.torch import load_file
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
model.load_state_dict(load_file({str(path)!r}))
torch.set_num_threads(1)
torch.manual_seed(0)
print(model(torch.randn(1, 1, 8, 8)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    torch.manual_seed(0)  # reading weights draws nothing
    expected = load_model(path)[0](torch.randn(1, 1, 8, 8))
    torch.testing.assert_close(torch.tensor(eval(done.stdout)), expected.detach())
