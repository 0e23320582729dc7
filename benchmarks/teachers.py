"""Every kind of teacher that this package makes, against dropout, temperature and label smoothing, at equal tuning.

python benchmarks/teachers.py --data-dir DATA --out runs/teachers --processes 2                # two CPU cores
python benchmarks/teachers.py --size gpu --data-dir DATA --out runs/teachers-gpu --budget 480  # in pieces

DATA holds what benchmarks/images.py reads. Each kind, and learning from the labels alone, has a grid of three settings
(`GRIDS`). At a seed that is not reported every setting's teacher gets a student, and of each kind the setting is taken
whose student is the most accurate on held-out images. All kinds but cross-entropy's begin with the rate that was chosen
for it, and all students learn at the one that was chosen for the labels alone. Then each kind teaches with its setting
at every seed: split, the student's initialisation and the order of its batches are those of the seed, so that students
are paired. They learn by KD at T = 4 with its published weights, which is not tuned. The test images are scored once,
at the end of each run. Every run is a run folder: the same command, stopped or out of its budget, goes on.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from arena import tiny
from images import cifar10_data, reduced, tinyimagenet_data
from pieces import Clock, OutOfTime, command_line, in_phases, main_of, parsed, write_tables
from preceptor import assess, posterior
from preceptor.data.dataset import Data, labels_of
from preceptor.recipe import DistillRecipe
from preceptor.recipe.keywords import make_recipe
from preceptor.runs.files import write_text
from preceptor.runs.references import teacher_references
from preceptor.training import distill, teach, teach_together
from preceptor.training.data.samples import cut
from preceptor.training.engine.device import make_accelerator
from preceptor.training.scoring.evaluate import tabulate
from preceptor.training.teachers.given import fitted, load_teachers
from teachers_report import FAMILIES, GRIDS, TUNING, best_setting, collect, complete, judgement, markdown, place

KD = {"loss": {"name": "kd", "temperature": 4.0}, "ce_weight": 0.1, "distill_weight": 0.9}
SAMPLES = 3  # of a posterior


class Size(NamedTuple):
    """One form of the table.

    Args:
        data: by the folder with the files, and that of what has been decoded.
        images: to train on, of the first ones.
        shrunk: how many pixels, each way, become one.
        continued: epochs that a posterior, or a fine-tuned teacher, goes on for.
        longer: epochs of the longer-trained student for each of the others, so that it costs as much as both of them.
        tuned: the kinds whose settings are chosen; of the others the first one is taken.
    """

    data: Callable[[Path, Path], Data]
    teacher: str
    assistant: str
    student: str
    images: int
    heldout: int
    shrunk: int
    seeds: int
    lr: float
    epochs: int
    continued: int
    longer: int
    training: dict[str, Any]
    tuned: tuple[str, ...] = tuple(GRIDS)

    @property
    def grids(self) -> dict[str, tuple[float, ...]]:
        """The settings of each kind that are tried."""
        return {kind: values if kind in self.tuned else values[:1] for kind, values in GRIDS.items()}


SIZES = {
    "cpu": Size(
        data=cifar10_data, teacher="resnet20", assistant="resnet14", student="resnet8", images=3000, heldout=2500,
        shrunk=2, seeds=3, lr=0.1, epochs=6, continued=3, longer=4, training={"batch_size": 64, "precision": "auto"},
    ),
    "gpu": Size(
        data=tinyimagenet_data, teacher="resnet32x4", assistant="wrn_40_2", student="resnet8x4", images=45_000,
        heldout=5000, shrunk=1, seeds=3, lr=0.4, epochs=60, continued=20, longer=9,
        training={"batch_size": 512, "precision": "auto", "compile": "auto"},
    ),
    "quick": Size(
        data=tiny, teacher="resnet14", assistant="resnet8", student="resnet8", images=120, heldout=60, shrunk=1,
        seeds=1, lr=0.1, epochs=2, continued=2, longer=2, training={"batch_size": 120}, tuned=("temperature", "alone"),
    ),
}  # fmt: skip


class Teacher(NamedTuple):
    """A teacher by name, the runs that had to be trained for it, the temperature that its logits are divided by."""

    name: str
    runs: list[Path]
    temperature: float = 1.0


class Teachers:
    """The runs of one size in a folder: ``seed-S/teachers/RUN``, ``students/KIND-SETTING``, ``alone/alone-SETTING``."""

    def __init__(self, size: Size, data: Data, out: Path, clock: Clock) -> None:
        self.size, self.data, self.out, self.clock = size, data, out, clock
        self.given: dict[str, Any] = {"data": data, "progress": sys.stderr.isatty()}

    def part(self, name: str) -> None:
        """All runs of a part that are not complete yet.

        Args:
            name: one of `parts`.
        """
        what, family, number = name.split("/")
        if what == "tune":
            for kind in FAMILIES[family]:
                self.student(kind, self.size.grids[kind][int(number)], TUNING)
            return
        if what == "teach":
            self.teacher(family, self.size.grids[family][int(number)], TUNING)
            return
        for kind in FAMILIES[family]:
            setting = self.chosen(kind)
            self.student(kind, setting, int(number))
            if kind not in ("alone", "longer", "mutual_small"):
                self.judge(kind, setting, int(number))

    def chosen(self, kind: str) -> float:
        """The setting of a kind, whose grid must be complete."""
        found = best_setting(self.out, kind, self.size.grids)
        if found is None:
            raise OutOfTime
        return found

    # -- students ------------------------------------------------------------------------------------------------------

    def student(self, kind: str, setting: float, seed: int) -> Path:
        """Train a student of a kind of teacher, or one of the labels alone, unless it is there."""
        folder = place(self.out, seed, kind, setting)
        if complete(folder):
            return folder
        if kind in ("alone", "longer"):
            longer = self.size.longer if kind == "longer" else 1
            changes = self.epochs(longer * self.size.epochs) | {"optimizer": self.sgd(setting)}
            self.taught(folder, self.size.student, seed, **changes)
        elif kind == "mutual_small":
            self.mutual(setting, seed)
        else:
            teacher = self.teacher(kind, setting, seed)
            self.distilled(folder, self.size.student, seed, teacher, **KD, optimizer=self.sgd(self.chosen("alone")))
        return folder

    def judge(self, kind: str, setting: float, seed: int) -> None:
        """Write down what `assess` says of a teacher, its test accuracy and its runs, beside its student."""
        path = judgement(place(self.out, seed, kind, setting))
        if not path.is_file():
            teacher = self.teacher(kind, setting, seed)
            runs = [str(run.relative_to(self.out / f"seed-{seed}")) for run in teacher.runs]
            with self.clock.run("score"):
                found = worth(teacher, self.recipe(self.size.student, seed), self.data)
                write_text(path, json.dumps(found | {"runs": runs}) + "\n")

    # -- teachers ------------------------------------------------------------------------------------------------------

    def teacher(self, kind: str, setting: float, seed: int) -> Teacher:
        """A teacher, trained if it is not there."""
        return getattr(self, kind)(setting, seed)

    def cross_entropy(self, rate: float, seed: int) -> Teacher:
        return self.alone_taught("cross_entropy", rate, seed, optimizer=self.sgd(rate))

    def base(self, seed: int) -> Teacher:
        """The one by cross-entropy that others begin with."""
        return self.cross_entropy(self.chosen("cross_entropy"), seed)

    def stopped(self, rate: float, seed: int) -> Teacher:
        base = self.cross_entropy(rate, seed)
        return base._replace(name=f"{base.name}:best")

    def label_smoothing(self, smoothing: float, seed: int) -> Teacher:
        objective = {"name": "label_smoothing", "smoothing": smoothing}
        return self.alone_taught("label_smoothing", smoothing, seed, objective=objective)

    def dropout(self, share: float, seed: int) -> Teacher:
        return self.alone_taught("dropout", share, seed, model={"name": self.size.teacher, "dropout": share})

    def temperature(self, temperature: float, seed: int) -> Teacher:
        return self.base(seed)._replace(temperature=temperature)

    def sftn(self, weight: float, seed: int) -> Teacher:
        objective = {"name": "SFTN", "student": {"name": self.size.student}, "kd_weight": weight}
        return self.alone_taught("sftn", weight, seed, objective=objective)

    def swag(self, rate: float, seed: int) -> Teacher:
        """The base at a constant rate, and draws from the normal distribution of its epochs."""
        base, folder = self.base(seed), self.folder(seed, "swag", rate)
        run, samples = folder / "run", folder / "samples"
        if not complete(run):
            with self.clock.run("teacher swag"):
                rate *= self.chosen("cross_entropy")
                kept: dict[str, Any] = {"schedule": {"name": "constant"}, "optimizer": self.sgd(rate), "keep": "all"}
                teach(base.name, run, more_epochs=self.size.continued, **kept, **self.given)
        if not complete(samples):
            with self.clock.run("posterior"):
                posterior(run, samples, samples=SAMPLES, start_epoch=self.size.epochs, data=self.data)
        return Teacher(str(samples), [run])  # whose epochs are also the base's

    def sgld(self, noise: float, seed: int) -> Teacher:
        """The base in Langevin dynamics, at a constant rate: that of sgd with momentum would be a tenth of it."""
        base = self.base(seed)
        changes: dict[str, Any] = self.epochs(self.size.continued) | {"schedule": {"name": "constant"}}
        changes["training"] |= {"keep": "all"}
        changes["optimizer"] = {
            "name": "sgld", "lr": self.chosen("cross_entropy") * self.size.lr, "weight_decay": 5e-4,
            "noise_temperature": noise,
        }  # fmt: skip
        own = self.alone_taught("sgld", noise, seed, start=base.name, **changes)
        return Teacher(f"{own.name}:snapshots", base.runs + own.runs)

    def ensemble(self, rate: float, seed: int) -> Teacher:
        """Two initialisations."""
        one = self.cross_entropy(rate, seed)
        streams = {"initialization": seed + 1000}
        other = self.alone_taught("twin", rate, seed, optimizer=self.sgd(rate), streams=streams)
        return Teacher(f"{one.name}+{other.name}", one.runs + other.runs)

    def snapshots(self, cycles: float, seed: int) -> Teacher:
        changes: dict[str, Any] = self.epochs(self.size.epochs) | {
            "schedule": {"name": "cyclic", "cycles": int(cycles)}
        }
        changes["training"] |= {"keep": "all"}
        own = self.alone_taught("snapshots", cycles, seed, **changes)
        return own._replace(name=f"{own.name}:snapshots")

    def born_again(self, temperature: float, seed: int) -> Teacher:
        """A student of the base, as large as it is, that learns as in our generations: half from the labels."""
        base, folder = self.base(seed), self.folder(seed, "born_again", temperature)
        loss = {"loss": {"name": "kd", "temperature": temperature}, "ce_weight": 0.5, "distill_weight": 0.5}
        self.distilled(folder, self.size.teacher, seed, base, generation=1, **loss)
        return Teacher(str(folder), [*base.runs, folder])

    def born_again_ensemble(self, temperature: float, seed: int) -> Teacher:
        own = self.born_again(temperature, seed)
        return own._replace(name=f"{self.base(seed).name}+{own.name}")

    def aid(self, weight: float, seed: int) -> Teacher:
        """The base, fine-tuned towards what its student says."""
        base, folder = self.base(seed), self.folder(seed, "aid", weight)
        student = self.student("cross_entropy", self.chosen("cross_entropy"), seed)
        changes = self.epochs(self.size.continued) | {"schedule": {"name": "cosine"}}
        changes["optimizer"] = self.sgd(0.1 * self.chosen("cross_entropy"))
        loss = {"loss": KD["loss"], "ce_weight": 1 - weight, "distill_weight": weight}
        learned = Teacher(str(student), [])
        self.distilled(folder, self.size.teacher, seed, learned, start=base.name, **loss, **changes)
        return Teacher(str(folder), [*base.runs, student, folder])

    def mutual(self, weight: float, seed: int) -> Teacher:
        """The large one of two that learn from each other."""
        folder = self.folder(seed, "mutual", weight)
        small = place(self.out, seed, "mutual_small", weight)
        if not (complete(folder / "large") and complete(small)):
            with self.clock.run("teacher mutual"):
                pair = {"large": {}, small.name: {"model": {"name": self.size.student}}}
                recipe = self.recipe(self.size.teacher, seed)
                teach_together(recipe, pair, folder, weight=weight, **self.given)
        return Teacher(str(folder / "large"), [folder / "large", small])

    def mutual_both(self, weight: float, seed: int) -> Teacher:
        both = self.mutual(weight, seed)
        return both._replace(name="+".join(map(str, both.runs)))

    def assistant(self, temperature: float, seed: int) -> Teacher:
        base, folder = self.base(seed), self.folder(seed, "assistant", temperature)
        loss = KD | {"loss": {"name": "kd", "temperature": temperature}}
        self.distilled(folder, self.size.assistant, seed, base, **loss)
        return Teacher(str(folder), [*base.runs, folder])

    # -- runs ----------------------------------------------------------------------------------------------------------

    def alone_taught(self, name: str, setting: float, seed: int, **changes: Any) -> Teacher:
        """A teacher that is one run, of the labels."""
        folder = self.folder(seed, name, setting)
        self.taught(folder, changes.pop("model", self.size.teacher), seed, **changes)
        return Teacher(str(folder), [folder])

    def taught(self, folder: Path, model: Any, seed: int, **changes: Any) -> None:
        """A run of the labels, unless it is complete."""
        if not complete(folder):
            with self.clock.run(f"{folder.parent.name} {folder.name.partition('-')[0]}"):
                teach(self.recipe(model, seed, **changes), folder, **self.given)

    def distilled(self, folder: Path, model: str, seed: int, teacher: Teacher, **changes: Any) -> None:
        """A run of a teacher, unless it is complete."""
        if not complete(folder):
            with self.clock.run(f"{folder.parent.name} {folder.name.partition('-')[0]}"):
                recipe = self.recipe(model, seed, **changes) | transform_of(teacher)
                distill(recipe, folder, teacher=teacher.name, **self.given)

    def folder(self, seed: int, name: str, setting: float) -> Path:
        """Where a teacher is trained."""
        return self.out / f"seed-{seed}" / "teachers" / f"{name}-{setting:g}"

    def sgd(self, rate: float) -> dict[str, Any]:
        """SGD at a multiple of the size's rate."""
        lr = rate * self.size.lr
        return {"name": "sgd", "lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

    def epochs(self, epochs: int) -> dict[str, Any]:
        """What of a recipe says how long it trains."""
        schedule = {"name": "one_cycle", "warmup_epochs": epochs / 5}
        return {"schedule": schedule, "training": self.size.training | {"epochs": epochs}}

    def recipe(self, model: Any, seed: int, **changes: Any) -> dict[str, Any]:
        """What all runs of a seed have in common, those that say no rate at that of cross-entropy."""
        common = {
            "model": model,
            "split": {"heldout": self.size.heldout},
            "augmentation": {"name": "crop_flip", "padding": max(1, 4 // self.size.shrunk)},
            "seed": seed,
        }
        rate = {} if "optimizer" in changes else {"optimizer": self.sgd(self.chosen("cross_entropy"))}
        return common | self.epochs(self.size.epochs) | rate | changes


def transform_of(teacher: Teacher) -> dict[str, Any]:
    """What a student's recipe says of a teacher's temperature."""
    if teacher.temperature == 1:
        return {}
    return {"transform": {"kind": "temperature", "temperature": teacher.temperature}}


def worth(teacher: Teacher, recipe: dict[str, Any], data: Data) -> dict[str, Any]:
    """The scores of a teacher, as its student is given it.

    Returns:
        ``heldout``: accuracy, Brier score, that at the best temperature, and NLL; ``test``: accuracy.
    """
    names = [each.model_dump() for each in teacher_references(teacher.name)]
    made = make_recipe(DistillRecipe, recipe | transform_of(teacher), {"teacher": names})
    samples, device = cut(made, data, made.seed), make_accelerator(made.training).device
    asked = fitted(made, load_teachers(made, None, False), samples, device)
    heldout = samples.parts["heldout"]
    said = tabulate(asked, samples.train, heldout, device)[heldout].double()
    labels = labels_of(samples.train)[heldout]
    assert samples.test is not None
    test = tabulate(asked, samples.test, samples.test_indices, device)[samples.test_indices].double()
    seen = assess.forecast(said)
    scores = {"accuracy": assess.accuracy, "brier": assess.brier, "nll": assess.nll}
    found = {name: float(score(seen, labels).mean()) for name, score in scores.items()}
    found["brier_recalibrated"] = float(assess.brier(assess.recalibrated(seen, labels), labels).mean())
    right = assess.accuracy(assess.forecast(test), labels_of(samples.test)[samples.test_indices])
    return {"heldout": found, "test": {"accuracy": float(right.mean())}}


# -- the command -------------------------------------------------------------------------------------------------------


def parts(size: Size) -> list[list[str]]:
    """What can be done side by side, of one phase after the other."""
    base = ["cross_entropy", "stopped", "alone", "longer"]
    kinds = [family for family in FAMILIES if family not in base]
    grids, seeds = size.grids, range(size.seeds)

    def each(what: str, families: Sequence[str]) -> list[str]:
        tried = {family: max(len(grids[kind]) for kind in FAMILIES[family]) for family in families}
        return [f"{what}/{family}/{n}" for family, count in tried.items() if count > 1 for n in range(count)]

    # What others begin with comes before them; `stopped` and `longer` have no grid of their own.
    return [
        [*each("teach", ["cross_entropy"]), *each("tune", ["alone"])],
        each("tune", ["cross_entropy"]),
        [*(f"score/cross_entropy/{s}" for s in seeds), *each("tune", kinds)],
        [f"score/{family}/{s}" for family in [*base[1:3], *kinds, "longer"] for s in seeds],
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained yet and the budget allows; write `teachers.json` and `teachers.md`."""
    files = "the files of benchmarks/images.py"
    arguments = parsed(command_line(str(__doc__), SIZES, files, "tune/dropout/0"), given)
    size, out = SIZES[arguments.size], arguments.out
    size = size._replace(training=size.training | {"device": arguments.device})
    out.mkdir(parents=True, exist_ok=True)

    def make(clock: Clock) -> Callable[[str], None]:
        data = reduced(size.data(arguments.data_dir, out / "images"), size.images + size.heldout, size.shrunk)
        return Teachers(size, data, out, clock).part

    in_phases(__file__, parts(size), arguments, given, make)
    if not arguments.parts:
        found = collect(out, size.grids, range(size.seeds)) | {"size": arguments.size, "recipe": size._asdict()}
        found["recipe"]["data"] = None
        write_tables("teachers", found, markdown, out, arguments.device)


if __name__ == "__main__":
    main_of(main)
