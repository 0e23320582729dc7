"""Criteria that look into the models, made ready for these: what their taps stand for, and parts of their shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.inputs import batch_to, call
from preceptor.losses.features.base import FeatureLoss, Setting
from preceptor.tasks.criterion import Criterion
from preceptor.tasks.layouts import channels_first
from preceptor.tasks.looking import Look, spread
from preceptor.tasks.stack import Stack
from preceptor.tasks.taps import Taps, check_features
from preceptor.tasks.teacher import Function, Teacher, TeacherFn, in_eval_mode, leaves
from preceptor.tasks.tokens import features_of_tokens, mask_of_tokens

Batch = Mapping[str, Any]
CHANNELS_FIRST = "channels first"
"""What a record says of stored maps."""


@runtime_checkable
class Remembers(Protocol):
    """A teacher that has stored features beside its answers, such as a record."""

    @property
    def feature_names(self) -> Sequence[str]:
        """What it has features of: ``TAP``, or ``WORD.0``, ``WORD.1``... where a word stands for several."""
        ...

    def features(self, names: Sequence[str], batch: Batch) -> dict[str, Tensor]:
        """Those of a batch, by name."""
        ...


class Recalled:
    """Features of a teacher that remembers them, where another's are caught."""

    def __init__(self, teacher: Remembers, names: Sequence[str]) -> None:
        self.teacher: Remembers = teacher
        self.names: list[str] = list(names)

    def of(self, batch: Batch) -> dict[str, Tensor]:
        """The features of a batch."""
        return self.teacher.features(self.names, batch) if self.names else {}


def looked_into(teacher: TeacherFn) -> Teacher | Remembers | None:
    """Whose features a student may see: the one live model of a teacher, or what remembers its own."""
    parts = list(leaves(teacher))
    if len(parts) != 1:
        return None
    [part] = parts
    if isinstance(part, Function):
        return part.function if isinstance(part.function, Remembers) else None
    return part if isinstance(part, Teacher) else None


@dataclass(frozen=True)
class Plan:
    """What `build` is to know of a run.

    Args:
        example: a batch of a few samples of the data set, ``input`` among it.
        num_samples, num_classes: of the data set.
        labels: int64 (N,) of its samples, -1 where there is none that may be looked at.
        seed: of the parts' initial values.
        preprocessing: how raw values became inputs (`Data.preprocessing`); empty where it is not known.
    """

    example: Batch | None = None
    num_samples: int = 0
    num_classes: int = 0
    labels: Tensor | None = None
    seed: int = 0
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


class Side:
    """A model that is looked into: what it gives for the example.

    Args:
        look: one pass of it, or what it remembers.
        features: from taps to their features.
        example: the batch that they are of.
    """

    def __init__(
        self, look: Look | None, features: Callable[[Sequence[str]], dict[str, Tensor]], example: Batch
    ) -> None:
        self.look: Look | None = look
        self.rows: int = _rows(example["input"])
        self._input: Any = example["input"]
        self._mask = mask_of_tokens(example)
        self._features = features

    @property
    def image(self) -> tuple[int, int] | None:
        """Height and width of what the model is given, if it is an image; of a record those of the data's."""
        given = self._input if self.look is None else self.look.image
        return (given.shape[2], given.shape[3]) if isinstance(given, Tensor) and given.ndim == 4 else None

    def features(self, taps: Sequence[str], whose: str) -> dict[str, Tensor]:
        """On the CPU, as they will be read: maps with their channels first.

        Raises:
            InputError: a tap whose first axis is not the batch, or of which it cannot be told where the channels are.
        """
        found = self._features(taps)
        check_features(found, self.rows, whose)
        turned: set[str] = set()
        if self.look is not None:
            self.look.refuse_open(taps)
            turned = self.look.turned(taps)
        if self._mask is not None:
            found = features_of_tokens(found, self._mask, whose)
        return {name: (channels_first(each) if name in turned else each).detach().cpu() for name, each in found.items()}


def build(criteria: Sequence[Criterion], model: nn.Module, teacher: TeacherFn | None, plan: Plan) -> None:
    """Make those criteria ready that ask for it, by their method `build`.

    Raises:
        InputError: there is no example; a tap that fits nothing; features that a criterion cannot compare.
    """
    asking = [each for each in criteria if each.has("build")]
    if not asking:
        return
    name = asking[0].name
    if isinstance(model, Stack):
        raise InputError(f"the loss '{name}' looks into a model, which a stack has no single one of; train them singly")
    if plan.example is None:
        raise InputError(
            f"the loss '{name}' makes its parts by the shapes of features, for which it must see some; give the task "
            "example=batch, a batch of two samples or so"
        )
    whose = "model" if teacher is None else "student"
    student = _student_side(model, plan.example, whose)
    source = None if teacher is None else looked_into(teacher)
    for number, criterion in enumerate(asking):
        loss: Any = criterion.function
        taught = None
        if criterion.taps("teacher"):
            taught = _teacher_side(source, plan.example, criterion.name)
        pairs = _resolved(criterion, student, taught, source)
        if criterion.taps("student") or taught is not None:
            loss.student_taps, loss.teacher_taps = pairs
        if hasattr(loss, "student_image"):
            loss.student_image, loss.teacher_image = student.image, None if taught is None else taught.image
        seen = student.features(pairs[0], whose)
        theirs = {} if taught is None else taught.features(pairs[1], "teacher")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed + number)
            _make_parts(criterion, seen, theirs, _setting(plan, model, source, taught))


def _make_parts(
    criterion: Criterion, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], setting: Setting
) -> None:
    try:
        criterion.call("build", student, teacher, setting)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # torch's, of shapes that make no module, or an outsider's
        reason = f"the loss '{criterion.name}' cannot make its parts for these models: {error}"
        raise InputError(reason) from error


def student_taps(model: nn.Module, structure: nn.Module, taps: Sequence[str], whose: str, plan: Plan) -> Taps:
    """What catches the features of the model that is trained: in one pass it is seen what follows in place, so that a
    copy must be kept, and which maps have their channels last; without an example all are copied and none is turned.

    Args:
        structure: the model, or what a stack is of.
    """
    if plan.example is None or not taps:
        return Taps(structure, taps, whose)
    look = _student_side(model, plan.example, "student").look
    assert look is not None
    return Taps(structure, taps, whose, copied=look.copied(taps), turned=look.turned(taps))


def _setting(plan: Plan, model: nn.Module, source: Teacher | Remembers | None, taught: Side | None) -> Setting:
    head = None if taught is None or taught.look is None or taught.look.head is None else taught.look.head.module
    teacher = source.model if isinstance(source, Teacher) else None
    return Setting(
        plan.num_samples,
        plan.num_classes,
        labels=plan.labels,
        teacher_head=head,
        student=model,
        teacher=teacher,
        preprocessing=plan.preprocessing,
    )


def _student_side(model: nn.Module, example: Batch, whose: str) -> Side:
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    inputs = batch_to(example, device)["input"]

    def ask() -> Any:
        with in_eval_mode(model):
            return call(model, inputs)

    def features(taps: Sequence[str]) -> dict[str, Tensor]:
        with torch.no_grad(), Taps(model, taps, whose) as caught:
            ask()
        return {name: caught[name] for name in taps}

    return Side(Look(model, ask, whose), features, example)


def _teacher_side(source: Teacher | Remembers | None, example: Batch, loss: str) -> Side:
    if isinstance(source, Teacher):
        device = next((each.device for each in source.model.parameters()), torch.device("cpu"))
        batch = batch_to(example, device)

        def features(taps: Sequence[str]) -> dict[str, Tensor]:
            with Taps(source.model, taps, "teacher") as caught:
                source.answer(batch)
            return {name: caught[name] for name in taps}

        return Side(Look(source.model, lambda: source.answer(batch), "teacher"), features, example)
    if isinstance(source, Remembers):
        return Side(None, lambda taps: _remembered(source, taps, example), example)
    raise InputError(
        f"the loss '{loss}' needs features of the teacher, which only one live model can give, or a record that has "
        "them (preceptor record --features); hand over the model itself as the teacher, or of a stack or an ensemble "
        "of runs name one, such as RUN:member-0"
    )


def _remembered(source: Remembers, taps: Sequence[str], example: Batch) -> dict[str, Tensor]:
    """Features on record, unless an older Preceptor wrote them, which stored channels-last maps as they came."""
    found = source.features(taps, example)
    described: Mapping[str, str] = getattr(source, "features_described", {})
    for tap, each in found.items():
        unsaid = CHANNELS_FIRST not in described.get(tap, CHANNELS_FIRST)
        if unsaid and each.ndim == 4 and each.shape[1] == each.shape[2] != each.shape[3]:
            raise InputError(
                f"the record does not say where the channels of its features '{tap}' of shape {tuple(each.shape)} are, "
                f"as it was written by an older Preceptor; record them anew (preceptor record --features {tap})"
            )
    return found


def _resolved(
    criterion: Criterion, student: Side, taught: Side | None, source: Teacher | Remembers | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The student's and the teacher's taps; of words that stand for several, as many on both sides."""
    loss: Any = criterion.function
    assert student.look is not None
    wanted = tuple(getattr(loss, "student_taps", ()))
    ours = student.look.resolve(wanted)
    if taught is None:
        return tuple(ours), ()
    asked = tuple(loss.teacher_taps)
    if taught.look is None:
        assert isinstance(source, Remembers)
        theirs = [name for tap in asked for name in _recorded(tap, source.feature_names)]
    else:
        theirs = taught.look.resolve(asked)
    if asked == wanted and len(asked) == 1 and len(ours) != len(theirs):
        count = min(len(ours), len(theirs))
        ours, theirs = spread(ours, count), spread(theirs, count)
    return tuple(ours), tuple(theirs)


def _recorded(tap: str, names: Sequence[str]) -> list[str]:
    if tap in names:
        return [tap]
    several = [name for name in names if name.rpartition(".")[0] == tap and name.rpartition(".")[2].isdigit()]
    if not several:
        has = f"give one of {', '.join(names)} as the loss's teacher, or " if names else ""
        raise InputError(
            f"the record has no features of '{tap}'; {has}record it with preceptor record --features {tap}"
        )
    return several


def _rows(inputs: Any) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def usual_weights(losses: Sequence[tuple[Criterion, float]]) -> dict[str, float]:
    """The weights of the loss to the labels and of that to the teacher where nobody says others."""
    if len(losses) > 1:
        return {"ce_weight": 1.0, "distill_weight": 1.0}
    found = losses[0][0].function if losses else None
    return found.weights() if isinstance(found, FeatureLoss) else {"ce_weight": 0.1, "distill_weight": 0.9}


def teacher_taps(teacher: TeacherFn, criteria: Sequence[Criterion], plan: Plan) -> Taps | Recalled:
    """What catches the teacher's features, if a criterion asks for any; maps as `student_taps`.

    Raises:
        InputError: the teacher is no live model, or has no such module.
    """
    names = list(dict.fromkeys(name for each in criteria for name in each.taps("teacher")))
    viewing = [each.name for each in criteria if each.has("views")]
    source = looked_into(teacher)
    if isinstance(source, Teacher):
        look = None if plan.example is None or not names else _teacher_side(source, plan.example, "").look
        return Taps(source.model, names, "teacher", turned=() if look is None else look.turned(names))
    if source is not None and not viewing:
        return Recalled(source, names)
    asking = [*viewing, *(each.name for each in criteria if each.taps("teacher"))]
    if asking:
        raise InputError(
            f"the loss '{asking[0]}' needs features of the teacher, which only one live model can give; hand over the "
            "model itself as the teacher, or of a stack or an ensemble of runs name one, such as RUN:member-0"
        )
    return Taps(nn.Module(), [], "teacher")
