"""Several students of one teacher trained side by side: each batch is made, and its teacher asked, once for all."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.inputs import tensors_of
from preceptor.interrupts import Interrupted
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.tasks.building import Recalled, looked_into
from preceptor.tasks.taps import Taps
from preceptor.tasks.task import ANSWER, ANSWERED_FEATURES, DistillTask
from preceptor.tasks.teacher import Lookup, Teacher
from preceptor.training.data.batches import WHOLE, Batch, Batches, Shard, StackedBatches, step_sizes
from preceptor.training.engine.compiling import Answers
from preceptor.training.engine.progress import progress_bar
from preceptor.training.job import Job
from preceptor.training.loop.loop import Loop, lent_generator
from preceptor.training.loop.step import Stepper, is_channels_last
from preceptor.training.outcome import Result
from preceptor.training.train import loop_of, opened, scored_on_heldout, written_down

# What decides which batches a student sees and what its teacher says to them.
_DATA = ("data", "num_classes", "split", "sampler", "augmentation", "mixing")
_TEACHER = ("teacher", "transform", "probabilities", "resize", "cache", "teacher_rows", "teacher_unaugmented")
_TRAINING = ("batch_size", "accumulate", "precision", "compile", "device", "num_workers")
_STREAMS = ("split", "order", "augmentation")
# What is said once, for all.
_SHARED = ("data", "teacher", "teacher_model", "trust", "folder", "progress", "choice", "recipe")
_LONGEST = 100  # letters of a name, which a file system takes


def check_students(students: Any, *, kept: bool, what: str = "student") -> None:
    """Refuse what is no mapping from names that can be folders to the keywords of each.

    Args:
        what: an error calls each.
        kept: each gets a folder of its name, and some file systems know no capitals.

    Raises:
        InputError: naming the student and what is wrong with it.
    """
    if not isinstance(students, Mapping):
        raise InputError(
            f"the {what}s are a {type(students).__name__}; give a mapping from each one's name to the keywords in "
            "which it differs, {'kd': {'loss': 'kd'}, 'wttm': {'loss': 'wttm'}}"
        )
    if not students:
        raise InputError(f"there are no {what}s to train; give at least one")
    known: dict[str, str] = {}
    for name, changes in students.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) or len(name) > _LONGEST:
            raise InputError(
                f"a {what} is called {name!r:.{_LONGEST}}; call it by letters, digits, '.', '_', '+' and '-', as a "
                f"folder, at most {_LONGEST} of them"
            )
        other = known.setdefault(name.lower(), name)
        if kept and other != name:
            raise InputError(f"the folders '{other}' and '{name}' may be one; call one of the {what}s otherwise")
        if not isinstance(changes, Mapping):
            raise InputError(
                f"of the {what} '{name}' a {type(changes).__name__} is given; give a mapping of the keywords in which "
                "it differs, {'loss': 'kd'}"
            )
        shared = next((key for key in _SHARED if key in changes), None)
        if shared is not None:
            raise InputError(
                f"the {what} '{name}' has '{shared}' of its own, which all share; give it once, beside the students"
            )


def refuse_unlike(recipes: Mapping[str, TeachRecipe] | Mapping[str, DistillRecipe], what: str = "student") -> None:
    """Refuse students that do not see the same batches and teacher, or models that do not see the same batches.

    Args:
        what: an error calls each.

    Raises:
        InputError: naming two of them, and what differs.
    """
    (first, one), *others = recipes.items()
    for name, other in others:
        shared = (*_DATA, *_TEACHER) if isinstance(one, DistillRecipe) else _DATA
        for part, keys in ((lambda r: r, shared), (lambda r: r.training, _TRAINING)):
            for key in keys:
                if getattr(part(one), key) != getattr(part(other), key):
                    raise InputError(
                        f"the {what}s '{first}' and '{name}' differ in {key}, so that they cannot share batches; "
                        "give them the same, or train them one by one"
                    )
        differing = [s for s in _STREAMS if one.streams.get(s, one.seed) != other.streams.get(s, other.seed)]
        if differing:
            shared = ", ".join(f"'{stream}': {one.streams.get(stream, one.seed)}" for stream in _STREAMS)
            raise InputError(
                f"the {what}s '{first}' and '{name}' differ in the seed of {' and '.join(differing)}, so that they "
                f"cannot share batches; give all of them streams={{{shared}}}"
            )


def train_together(jobs: Mapping[str, Job], *, progress: bool = False) -> dict[str, Result]:
    """Run several jobs that share their batches and their teacher, or go on with those that are not complete.

    A student that diverges is given up; the others are trained to their end first.

    Raises:
        InputError: of the first student that was refused, with its name; as `preceptor.training.train.train`.
        Interrupted: Ctrl-C, TERM or HUP; every student has saved its state.
    """
    refuse_apart(jobs)
    with contextlib.ExitStack() as held:
        results = {name: held.enter_context(opened(job)) for name, job in jobs.items()}
        left = {name: job for name, job in jobs.items() if results[name] is None}
        if left:
            results |= _trained(left, progress=progress)
        return {name: result for name in jobs if (result := results[name]) is not None}


def refuse_apart(jobs: Mapping[str, Job], what: str = "student") -> None:
    """Refuse a student whose model or loss wants what the others' batches and answers do not give."""
    (first, one), *_ = jobs.items()
    for name, job in jobs.items():
        viewing = next((each.name for each in job.task.criteria if each.has("views")), None)
        if viewing is not None:
            raise InputError(
                f"the loss '{viewing}' of the student '{name}' shows the teacher views of its own, which the others do "
                "not see; distill that student by itself"
            )
        if _sizes(job) != _sizes(one):
            raise InputError(
                f"the {what}s '{first}' and '{name}' differ in the last batch of an epoch, for whose "
                f"{min(*_sizes(one), *_sizes(job))} sample(s) not both can be trained; give another batch_size, or "
                "train them one by one"
            )


def _sizes(job: Job) -> list[int]:
    """The samples of each step of an epoch."""
    assert isinstance(job.batches, Batches)
    return step_sizes(len(job.batches.indices), job.batches.batch_size, job.batches.smallest)


def _trained(jobs: Mapping[str, Job], *, progress: bool) -> dict[str, Result]:
    first = next(iter(jobs.values()))
    # Asked once for all, a teacher becomes a table of its answers, which nobody could look into.
    kinds = {_student(job).looks_at_teacher: job for job in reversed(list(jobs.values()))}
    prepared, *_ = [job.prepare() for job in kinds.values()]
    teachers = {looking: _student(job).teacher for looking, job in kinds.items()}
    taps = list(dict.fromkeys(tap for job in jobs.values() for c in job.task.criteria for tap in c.taps("teacher")))
    turned = {tap for job in jobs.values() for tap in _student(job).turned}
    # A teacher's answers to images in another layout differ in their last bits.
    shared: dict[Any, SharedBatches] = {}
    loops: dict[str, Loop] = {}
    total = sum(job.batches.steps_per_epoch * job.recipe.training.epochs for job in jobs.values())
    with progress_bar(f"{len(jobs)} students", enabled=progress) as show:

        def on_step(done: int, steps: int, scores: Any) -> None:
            show(sum(loop.progress.step for loop in loops.values()), total, scores)

        for name, job in jobs.items():
            teacher = _student(job).teacher = teachers[_student(job).looks_at_teacher]
            heldout = scored_on_heldout(job, shown=progress)
            alike = is_channels_last(job.cohort.module), isinstance(teacher, Lookup)
            batches = shared.setdefault(alike, SharedBatches(first.batches))
            loops[name] = loop = loop_of(job, batches, heldout, on_step)
            if batches.ask is None and not isinstance(teacher, Lookup):
                batches.ask = _asking(job, loop.stepper, taps, turned)
        failures = _run(loops, first.accelerator.device)
    results = {name: written_down(jobs[name], loops[name], prepared) for name in jobs if name not in failures}
    for name, failure in failures.items():
        others = ", ".join(f"'{other}'" for other in failures if other != name)
        too = f" (and {others})" if others else ""
        raise InputError(f"the student '{name}'{too} was given up, and the others are complete: {failure}") from failure
    return results


def _run(loops: Mapping[str, Loop], device: torch.device) -> dict[str, InputError]:
    """Make the steps of all in turn, those that are behind first; who was refused, and why."""
    one = next(iter(loops.values()))
    for loop in loops.values():
        loop.interruption = one.interruption
    running: dict[str, Iterator[None]] = {}
    failures: dict[str, InputError] = {}
    with one.interruption.caught(), lent_generator(device):
        for name, loop in loops.items():  # all of them to where they were, so that those behind are known
            with _given_up(name, failures):
                running[name] = loop.steps()
        try:
            while running:
                behind = min(loops[name].progress.step for name in running)
                for name in [name for name in running if loops[name].progress.step == behind]:
                    _advance(name, running, failures)
        except Interrupted as stop:
            saved = [_saved(loops[name]) for name in running]  # each of them, whatever became of the one before
            raise Interrupted(stop.number, saved=all(saved)) from None
    return failures


def _advance(name: str, running: dict[str, Iterator[None]], failures: dict[str, InputError]) -> None:
    at_end = True
    with _given_up(name, failures):
        at_end = next(running[name], StopIteration) is StopIteration
    if at_end:
        del running[name]


@contextlib.contextmanager
def _given_up(name: str, failures: dict[str, InputError]) -> Iterator[None]:
    """Go on without a student that is refused."""
    try:
        yield
    except InputError as error:
        failures[name] = error


def _saved(loop: Loop) -> bool:
    try:
        return loop.save()
    except InputError:  # it has diverged since it was looked at, or the disk is full
        return False


def _student(job: Job) -> DistillTask:
    assert isinstance(job.task, DistillTask)
    return job.task


def _asking(
    job: Job, stepper: Stepper, taps: Sequence[str], turned: Collection[str]
) -> Callable[[list[Batch], int], list[Batch]]:
    """A question to the teacher as a student's own step would put it; a teacher that draws is seeded for it.

    Args:
        taps: where students look into the teacher; each is caught once for all.
        turned: those of them at which maps have their channels last.
    """
    task = _student(job)
    source = looked_into(task.teacher) if taps else None

    def ask(batch: Batch) -> Any:
        with torch.no_grad(), job.accelerator.autocast():
            return task.teacher(stepper.laid_out(batch))

    answer = Answers(ask, job.recipe.training.batch_size) if stepper.captures else ask

    def looking(batch: Batch) -> Batch:
        if isinstance(source, Teacher):
            with Taps(source.model, taps, "teacher", turned=turned) as features:
                return {**batch, ANSWER: ask(batch), ANSWERED_FEATURES: features}
        remembered = {} if source is None else {ANSWERED_FEATURES: Recalled(source, taps).of(batch)}
        return {**batch, ANSWER: answer(batch), **remembered}

    def answered(micro_batches: list[Batch], step: int) -> list[Batch]:
        stepper.seed(step)
        return [looking(batch) for batch in micro_batches]

    return answered


class SharedBatches:
    """Batches for several students: whoever comes first to a step has its batch made, and the others are given it.

    A student at another step than the others gets the right batch all the same, and only saves nothing.

    Args:
        batches: what is shared.

    Attributes:
        ask: from the micro-batches of a step of the run to the same with their teacher's logits; None leaves that to
            each student.
    """

    ask: Callable[[list[Batch], int], list[Batch]] | None

    def __init__(self, batches: Batches | StackedBatches) -> None:
        self.batches = batches
        self.ask = None
        self._source: Iterator[list[Batch]] = iter(())
        self._held: list[Batch] = []
        self._at: tuple[int, int] | None = None  # epoch and step of what is held
        self._versions: list[int] = []  # of what is held, when it was made

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.batches.steps_per_epoch

    @property
    def num_samples(self) -> int:
        """Samples of the training set."""
        return self.batches.num_samples

    def epoch(self, epoch: int, *, start: int = 0, shard: Shard = WHOLE) -> Iterator[list[Batch]]:
        """For each optimizer step from `start` on, its micro-batches."""
        for step in range(start, self.steps_per_epoch):
            if self._at != (epoch, step) or self._versions != _versions(self._held):  # a model may work in place
                self._held = self._made(epoch, step, shard)
                self._at, self._versions = (epoch, step), _versions(self._held)
            yield self._held

    def _made(self, epoch: int, step: int, shard: Shard) -> list[Batch]:
        if self._at != (epoch, step - 1) or step == 0:
            self._source = self.batches.epoch(epoch, start=step, shard=shard)
        self._at = None  # if this fails, the next student starts anew
        micro_batches = next(self._source)
        return micro_batches if self.ask is None else self.ask(micro_batches, epoch * self.steps_per_epoch + step)


def _versions(batches: list[Batch]) -> list[int]:
    """How often each tensor was changed in place, as torch counts it; no model is given the targets of a record."""
    values = [each for batch in batches for value in batch.values() for each in tensors_of(value)]
    return [each._version for each in values if isinstance(each, Tensor) and not each.is_inference()]
