"""The typed recipe: everything that decides a run, as data. Does not import torch.

A recipe is a YAML file; ``key.key=value`` overrides are applied before it is checked. Unknown keys are
refused with the nearest known name. What a component's own options may be is checked where the component is
found (`preceptor.training.build`), from the signature of the function that its name stands for.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from preceptor.errors import InputError, did_you_mean

Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]

Stream = Literal["split", "initialization", "order", "augmentation", "dropout"]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and NaN."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(BaseModel):
    """Something found by name (``kd``, ``package.module:name``); every further key is an option of it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that the recipe hands to the named function."""
        return dict(self.model_extra or {})


def _component(value: object) -> object:
    """``loss: kd`` is short for ``loss: {name: kd}``."""
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[Component, BeforeValidator(_component)]


class Split(Strict):
    """How the labelled data are cut: a count, or a fraction of them. What is left over is ``train``'s, or
    nobody's.

    ``heldout`` selects and assesses, by default a tenth; ``transfer`` is seen by students without its labels; ``test``
    is cut only where the data set brings none of its own. The cut is stratified by class. Where the data set has a pool
    for a part (its own validation set, say), a fraction is one of the pool, and without a size the part is all that the
    pool's other parts leave.
    """

    train: Size | None = None
    heldout: Size | None = None
    transfer: Size | None = None
    test: Size | Literal["rest"] | None = None


class Optimizer(Strict):
    """SGD or AdamW; weight decay applies to every parameter."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)


class Schedule(Strict):
    """The learning rate as a multiple of ``optimizer.lr``, by optimizer step; milestones are in epochs."""

    name: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    milestones: tuple[float, ...] = ()
    factor: Annotated[float, Field(gt=0)] = 0.1
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class Average(Strict):
    """An average of the weights along training: exponential (``ema``) or uniform from ``start_epoch`` on
    (``swa``).
    """

    kind: Literal["ema", "swa"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    start_epoch: Annotated[int, Field(ge=0)] = 0


class Training(Strict):
    """The loop. ``batch_size`` is what one optimizer step sees, over all processes and accumulated
    micro-batches.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    select: Literal["brier", "nll", "accuracy"] = "brier"
    # A checkpoint after every so many epochs, or after those listed; after the last one always.
    checkpoint_epochs: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 1
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None  # and after every so many optimizer steps
    keep: Literal["last", "all"] = "last"
    num_workers: Annotated[int, Field(ge=0)] = 0
    trackers: tuple[str, ...] = ()

    @property
    def kept_epochs(self) -> list[int]:
        """The numbers of epochs after which a complete run still has the weights."""
        if self.keep == "last":
            return [self.epochs]
        return [epoch for epoch in range(1, self.epochs + 1) if self.is_checkpoint(epoch)]

    def is_checkpoint(self, epoch: int) -> bool:
        """Whether a checkpoint is written after so many epochs."""
        wanted = self.checkpoint_epochs
        due = epoch in wanted if isinstance(wanted, tuple) else epoch % wanted == 0
        return due or epoch == self.epochs


class Recipe(Strict):
    """What teaching and distilling have in common."""

    data: Named
    model: Named
    split: Split = Split()
    augmentation: Named | None = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training()
    average: Average | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    generation: Annotated[int, Field(ge=0)] = 0  # a link of a chain: each draws its own initialisation
    streams: dict[Stream, int] = {}

    @model_validator(mode="after")
    def _last_milestone(self) -> "Recipe":
        if self.schedule.name == "step" and not self.schedule.milestones:
            raise ValueError("schedule.milestones is empty; a step schedule needs at least one epoch, e.g. [30, 45]")
        if self.average and self.average.start_epoch >= self.training.epochs:
            raise ValueError(
                f"average.start_epoch is {self.average.start_epoch}, but training ends after "
                f"{self.training.epochs} epochs; choose a smaller one"
            )
        return self


class TeachRecipe(Recipe):
    """A teacher's training: ``objective`` says what it minimises, ``distribution`` how its logits are
    read.
    """

    verb: Literal["teach"] = "teach"
    objective: Named = Component(name="cross_entropy")
    distribution: Literal["softmax", "clip"] = "softmax"
    calibrate: bool = False

    @model_validator(mode="after")
    def _temperature_of_logits(self) -> "TeachRecipe":
        if self.calibrate and self.distribution == "clip":
            raise ValueError(
                "calibrate is true with distribution 'clip', but a temperature divides logits, which clipping does not "
                "use; choose distribution 'softmax' or leave calibrate out"
            )
        return self


class Temperature(Strict):
    """Temperature scaling: the logits divided by one number."""

    kind: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0)]


class VectorScaling(Strict):
    """Vector scaling: each class's log-probability times a scale, plus a bias."""

    kind: Literal["vector"] = "vector"
    scale: tuple[float, ...]
    bias: tuple[float, ...]


class Proxy(Strict):
    """The proxy teacher of PTLoss: coefficients shared by the classes, (M,), or one row a class, (C, M)."""

    kind: Literal["proxy"] = "proxy"
    coefficients: tuple[float, ...] | tuple[tuple[float, ...], ...]


Transform = Annotated[Temperature | VectorScaling | Proxy, Field(discriminator="kind")]
"""What is done to a teacher's output after training, before a student sees it."""


class TeacherRef(Strict):
    """One teacher of a student: a run folder, which of its weights, and its share in the mixture.

    ``epoch`` stands for the weights after that many epochs, which a run with ``training.keep=all`` has kept;
    ``member`` for one model of a stack.
    """

    run: Path
    weights: Literal["last", "best", "average", "teaching"] = "last"
    epoch: Annotated[int, Field(ge=1)] | None = None
    member: Annotated[int, Field(ge=0)] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    calibrated: bool = False

    @model_validator(mode="after")
    def _one_moment(self) -> "TeacherRef":
        if self.epoch is not None and self.weights != "last":
            raise ValueError(
                f"the teacher '{self.run}' has epoch {self.epoch} and weights '{self.weights}', which are other "
                "moments of its training; give one of the two"
            )
        if self.epoch is not None and self.calibrated:
            raise ValueError(
                f"the teacher '{self.run}' has epoch {self.epoch} and calibrated true, but a temperature is fitted to "
                "the weights that a run ends with; leave one of the two out"
            )
        if self.weights == "teaching" and self.calibrated:
            raise ValueError(
                f"the teacher '{self.run}' has weights 'teaching' and calibrated true, but these weights bring a "
                "transform of their own; leave calibrated out"
            )
        return self


def _teachers(value: object) -> object:
    values = value if isinstance(value, list | tuple) else [value]
    return [{"run": v} if isinstance(v, str | Path) else v for v in values]


class DistillRecipe(Recipe):
    """A student's training: ``ce_weight`` CE to the labels + ``distill_weight`` times ``loss`` to the
    teacher.
    """

    verb: Literal["distill"] = "distill"
    teacher: Annotated[tuple[TeacherRef, ...], BeforeValidator(_teachers)] = ()
    transform: Transform | None = None  # of what the teachers say together, before the student sees it
    loss: Named = Component(name="kd")
    ce_weight: Annotated[float, Field(ge=0)] = 0.1
    distill_weight: Annotated[float, Field(ge=0)] = 0.9
    cache: bool = True

    @model_validator(mode="after")
    def _some_weight(self) -> "DistillRecipe":
        if self.ce_weight == self.distill_weight == 0:
            raise ValueError("ce_weight and distill_weight are both 0; a student needs something to learn from")
        return self


R = TypeVar("R", bound=BaseModel)


def parse_transform(raw: object, source: str) -> Transform:
    """A transform that was stored as plain data; `source` is what an error calls the file."""
    try:
        return TypeAdapter(Transform).validate_python(raw)
    except ValidationError as error:
        raise InputError(f"{source} holds a transform that cannot be read: {error.errors()[0]['msg']}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2, in which ``on`` and ``no`` are text, ``1e-3`` is a number, and no key stands twice in a mapping."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The keys as they are written: when a mapping is made of them, merged ones (``<<``) are among them."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} has the key '{key.value}' again; keep one")
                seen.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would not read as text."""


_SCALARS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9]\d*)", "-+0123456789"),
    "float": (
        r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] in ("null", "merge")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_form, _first) in _SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_form})$"), list(_first))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe '{path}': {error.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"the recipe '{path}' is not text; give the path of a YAML file") from None
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"the recipe '{path}' is not valid YAML: {_detail(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"the recipe '{path}' holds a {type(value).__name__}, not a mapping of keys to values")
    return value


def _detail(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def find_recipe(name: str) -> Path:
    """A file, or a recipe that ships with Preceptor.

    Raises:
        InputError: there is neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = Path(__file__).parent / "recipes"
    found = shipped / f"{name}.yaml"
    if found.is_file():
        return found
    hint = did_you_mean(name, [file.stem for file in shipped.glob("*.yaml")])
    raise InputError(f"there is no recipe '{name}': no such file, and none of that name ships with Preceptor; {hint}")


def text_override(key: str, text: str | Path) -> str:
    """The ``key=value`` of a value that is text whatever it looks like, such as a path.

    >>> text_override("data.data_dir", "0711")
    'data.data_dir="0711"'
    """
    quoted = yaml.safe_dump(str(text), default_style='"', width=math.inf)
    return f"{key}={quoted.rstrip()}"


def override(raw: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`raw` with ``key.key=value`` assignments applied; values are YAML.

    >>> override({"optimizer": {"lr": 0.1}, "loss": "kd"}, ["optimizer.lr=1e-3", "loss.temperature=2"])
    {'optimizer': {'lr': 0.001}, 'loss': {'name': 'kd', 'temperature': 2}}
    """
    result = dict(raw)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(
                f"cannot read the override '{assignment}'; write it as key.key=value, e.g. optimizer.lr=0.1"
            )
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, str | Mapping):
                raise InputError(
                    f"cannot apply the override '{assignment}': '{parent}' is {child!r}, which has no keys"
                )
            node[parent] = {"name": child} if isinstance(child, str) else dict(child or {})
            node = node[parent]
        try:
            node[last] = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise InputError(
                f"the value in the override '{assignment}' is not valid YAML; correct or quote it: {_detail(error)}"
            ) from None
    return result


def parse(kind: type[R], raw: Mapping[str, Any]) -> R:
    """`raw` checked against a recipe type; the first problem becomes one sentence."""
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        raise InputError(_sentence(kind, error)) from None


def load(kind: type[R], path: Path | str, overrides: Iterable[str] = ()) -> R:
    """A recipe of type `kind` from a YAML file, with overrides applied.

    Raises:
        InputError: the file cannot be read, or a key or value in it is unknown.
    """
    return parse(kind, override(read_yaml(path), overrides))


def dump(recipe: BaseModel) -> str:
    """The resolved recipe as YAML, every default spelled out."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    # Unknown keys first: they are the likeliest cause of whatever else is wrong.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-"))]
    key, context = ".".join(where), first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}' in the recipe; {did_you_mean(where[-1], _fields_at(kind, where[:-1]))}"
    if first["type"] == "missing":
        return f"the recipe lacks the key '{key}'; add it, or give {key}=... on the command line"
    if first["type"] == "value_error":
        return str(context["error"])
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", context["expected"])
        return f"'{key}' is '{first['input']}'; {did_you_mean(str(first['input']), known)}"
    return f"'{key}' is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the nested model that `path` leads to."""
    for part in path:
        field = kind.model_fields.get(part)
        nested = _models_in(field.annotation) if field else []
        if nested:
            kind = nested[0]
    return list(kind.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models_in(argument)]
