"""Parameter groups, and optimizers and schedulers of somebody's own."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import names
from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import AnyOptimizer, OwnOptimizer, OwnSchedule, Recipe
from preceptor.runs import checkpoint
from preceptor.schema import Component
from preceptor.tasks.stack import Stack
from preceptor.training.objects.own import MakeOptimizer, MakeScheduler, Own

Groups = list[Any]
"""Parameters, or mappings of ``params``, a ``scale`` of the learning rate, and perhaps ``weight_decay``."""


def own_optimizer(recipe: Recipe, own: Own) -> tuple[MakeOptimizer, str] | None:
    """What makes somebody's own optimizer of parameters, and what an error calls it; None for one of ours.

    Raises:
        InputError: there is no such function, or it does not take an option.
    """
    said = recipe.optimizer
    if own.optimizer is not None:
        return own.optimizer, getattr(own.optimizer, "__name__", type(own.optimizer).__name__)
    if not isinstance(said, OwnOptimizer):
        return None
    options = said.options
    function = _found("optimizer", said, ("params", "lr"))
    more = names.accepted(function, {"lr": said.lr})
    return lambda parameters: function(parameters, **more, **options), said.name


def own_scheduler(recipe: Recipe, own: Own) -> tuple[MakeScheduler, str] | None:
    """What makes somebody's own scheduler of an optimizer and the number of steps, and what an error calls it.

    Raises:
        InputError: there is no such function, or it does not take an option.
    """
    said = recipe.schedule
    if own.scheduler is not None:
        return own.scheduler, getattr(own.scheduler, "__name__", type(own.scheduler).__name__)
    if not isinstance(said, OwnSchedule):
        return None
    options = said.options
    function = _found("schedule", said, ("optimizer",))

    def make(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        asked = {"total_steps", "num_training_steps"} & (names.options_of(function)[0] - options.keys())
        return function(optimizer, **dict.fromkeys(asked, steps), **options)

    return make, said.name


def _found(room: str, said: Component, own: tuple[str, ...]) -> Callable[..., Any]:
    function = names.find(room, said.name, trust=True)
    names.check_options(room, said, function, own=own)
    return function


def check_own(
    recipe: Recipe,
    own: Own,
    model: nn.Module,
    device: torch.device,
    parts: Mapping[str, nn.Parameter],
    state: nn.Module | None,
) -> None:
    """Refuse an optimizer or a scheduler of somebody's own that cannot train this model, before anything is trained.

    Args:
        parts: the criteria's own parameters, by what a pattern calls them.
        state: the modules that these are of.

    Raises:
        InputError: it fails, or a run could not be gone on with; one for a stack; a pattern that fits no parameter.
    """
    optimizer, scheduler = own_optimizer(recipe, own), own_scheduler(recipe, own)
    if optimizer is None and recipe.optimizer.name == "sgld" and isinstance(model, Stack):
        raise InputError(
            "the optimizer 'sgld' draws noise, which in a stack would be another than of each model alone; train the "
            "models one by one"
        )
    groups = parameter_groups(model, parts, recipe.optimizer, state)
    found = (optimizer or scheduler or (None, ""))[1]
    if found and isinstance(model, Stack):
        raise InputError(
            f"'{found}' is to train a stack, whose models only our own optimizers and schedules are known to keep "
            "apart; train them one by one"
        )
    if optimizer is not None:
        refuse_unresumable(optimizer[0], groups, optimizer[1], device)
    if scheduler is not None:
        trial: Any = optimizer[0] if optimizer else torch.optim.SGD
        made_scheduler(scheduler[0], made_optimizer(trial, _stand_ins(groups, device), "sgd"), 10, scheduler[1])


# -- groups ------------------------------------------------------------------------------------------------------------


def parameter_groups(
    model: nn.Module,
    parts: Mapping[str, nn.Parameter],
    recipe: AnyOptimizer | None,
    state: nn.Module | None = None,
) -> Groups:
    """The parameters of a model and of its criteria as the recipe groups them; a plain list if it does not.

    Args:
        model: single, or a `Stack`, whose parameters are grouped as those of one of its models.
        parts: the criteria's, by name (``loss.map.weight``): at the whole rate unless a pattern fits.
        state: the modules that these are of, which tell norms and biases among them.

    Raises:
        InputError: a pattern that fits no parameter.
    """
    if recipe is None or not (recipe.no_decay or recipe.layer_decay or recipe.rates):
        return [*model.parameters(), *parts.values()]
    bare: nn.Module = model.template if isinstance(model, Stack) else model  # type: ignore[assignment]
    own = dict(model.named_parameters())
    named = {name.replace("/", ".") if isinstance(model, Stack) else name: each for name, each in own.items()}
    spared = _without_decay(bare, recipe.no_decay)
    plain = {} if state is None else dict(state.named_parameters())
    spared_parts = {id(plain[name]) for name in _without_decay(state or nn.Module(), recipe.no_decay)}
    depth = layers_of(bare) if recipe.layer_decay else dict.fromkeys(named, 0)
    last = max(depth.values(), default=0)
    _refuse_idle_patterns(recipe.rates, [*named, *parts])
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    multiple = lambda name: next((rate for each, rate in recipe.rates.items() if fnmatchcase(name, each)), 1.0)  # noqa: E731
    for name, parameter in named.items():
        scale = multiple(name) * (recipe.layer_decay or 1.0) ** (last - depth[name])
        groups.setdefault((scale, name in spared), []).append(parameter)
    for name, parameter in parts.items():
        groups.setdefault((multiple(name), id(parameter) in spared_parts), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, **({"weight_decay": 0.0} if bare_of_decay else {})}
        for (scale, bare_of_decay), parameters in groups.items()
    ]


def scaled(groups: Groups, lr: float | None) -> Groups:
    """Groups with a learning rate each, where the optimizer is told one; else a scale is laid over it later."""
    if lr is None or not isinstance(groups[0], dict):
        return groups
    return [{**group, "lr": lr * group["scale"]} for group in groups]


def _without_decay(model: nn.Module, kinds: Sequence[str]) -> set[str]:
    found = set()
    for place, module in model.named_modules():
        normalises = "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False):
            is_bias = name == "bias" or name.endswith("_bias")
            if ("norms" in kinds and normalises) or ("biases" in kinds and is_bias):
                found.add(f"{place}.{name}".lstrip("."))
    return found


def layers_of(model: nn.Module) -> dict[str, int]:
    """The number of each parameter's layer, from 0, for rates by depth.

    A timm model says itself what its layers are (`group_matcher`, as timm's `param_groups_layer_decay` reads it). Of
    any other a layer is what stands behind a name up to its first number (``blocks.3``, ``layer1.0``), or a module that
    holds a matrix, in their order; vectors outside of these, such as those of a norm, are of the layer before them.
    """
    if hasattr(model, "group_matcher"):
        from timm.models import group_parameters  # pyright: ignore[reportMissingImports]

        by_layer: Any = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
        return {name: int(layer) for name, layer in by_layer.items()}
    numbers: dict[str, int] = {}
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        first = next((place for place, part in enumerate(parts[:-1]) if part.isdigit()), None)
        layer = ".".join(parts[:-1] if first is None else parts[: first + 1])
        if layer not in numbers and (first is not None or parameter.ndim > 1 or not numbers):
            numbers[layer] = len(numbers)
        found[name] = numbers.get(layer, len(numbers) - 1)
    return found


def _refuse_idle_patterns(rates: Mapping[str, float], known: Sequence[str]) -> None:
    left = list(known)
    for pattern in rates:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"optimizer.rates names '{pattern}', which fits no parameter; {did_you_mean(pattern, known)}"
            )
        fitting = [name for name in left if fnmatchcase(name, pattern)]
        if not fitting:
            raise InputError(
                f"optimizer.rates names '{pattern}', all of whose parameters an earlier pattern fits, and the first "
                "counts; put it before that, or leave it out"
            )
        left = [name for name in left if name not in fitting]


# -- somebody's own ----------------------------------------------------------------------------------------------------


def made_optimizer(make: MakeOptimizer, groups: Groups, name: str) -> torch.optim.Optimizer:
    """Somebody's own optimizer, of groups at their scales.

    Raises:
        InputError: it refuses them, is no optimizer, leaves some out, or has no learning rate or weight decay to scale.
    """
    plain = [{k: v for k, v in g.items() if k != "scale"} for g in groups] if isinstance(groups[0], dict) else groups
    try:
        optimizer = make(plain)
    except InputError:
        raise
    except Exception as error:  # of somebody else's code
        raise InputError(f"the optimizer '{name}' refuses the parameters or its options: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"the optimizer '{name}' is a {type(optimizer).__name__}; give a torch.optim.Optimizer")
    wanted = {id(p) for g in groups for p in (g["params"] if isinstance(g, dict) else [g])}
    if {id(p) for g in optimizer.param_groups for p in g["params"]} != wanted:
        raise InputError(f"the optimizer '{name}' does not hold the parameters that it is given; give it all of them")
    if any("lr" not in group for group in optimizer.param_groups):
        raise InputError(
            f"the optimizer '{name}' has no 'lr' in its groups, which a schedule could change; give another"
        )
    spared = any("weight_decay" in group for group in plain if isinstance(group, dict))
    if spared and "weight_decay" not in optimizer.defaults:
        raise InputError(f"the optimizer '{name}' has no weight_decay; leave optimizer.no_decay out")
    if isinstance(groups[0], dict) and len(groups) == len(optimizer.param_groups):
        for group, given in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = group["lr"] * given["scale"]
    return optimizer


def made_scheduler(make: MakeScheduler, optimizer: torch.optim.Optimizer, steps: int, name: str) -> Any:
    """Somebody's own scheduler.

    Raises:
        InputError: it refuses the optimizer or its options, or is none that is stepped without a score.
    """
    try:
        scheduler = make(optimizer, steps)
    except InputError:
        raise
    except Exception as error:  # of somebody else's code
        raise InputError(f"the scheduler '{name}' refuses the optimizer or its options: {error}") from error
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            f"the scheduler '{name}' waits for a score, and one is stepped after each optimizer step; give another, or "
            "training.patience to stop where nothing becomes better"
        )
    if not callable(getattr(scheduler, "step", None)):
        raise InputError(f"the scheduler '{name}' is a {type(scheduler).__name__} without step(); give an LRScheduler")
    return scheduler


def replayed(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[Any]:
    """Step a new scheduler to where it was after so many steps, which needs nothing saved; its rates there."""
    with warnings.catch_warnings():  # the optimizer has not stepped yet, and has no need to
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        for _ in range(steps):
            scheduler.step()
    return [group["lr"] for group in optimizer.param_groups]


def refuse_unresumable(make: MakeOptimizer, groups: Groups, name: str, device: torch.device) -> None:
    """Refuse an optimizer that does not go on from tensors and JSON to the same bits, on small stand-ins on `device`.

    Raises:
        InputError: a step of it fails, it keeps something that cannot be stored so, or draws, or remembers elsewhere.
    """
    once, again, other = (_stand_ins(groups, device) for _ in range(3))
    with torch.random.fork_rng([]):
        optimizer, twin = made_optimizer(make, once, name), made_optimizer(make, other, name)
        try:
            _step(optimizer, once, 0)
            tensors, rest = checkpoint.flatten_optimizer(optimizer)
            rest = json.loads(json.dumps(rest))
            resumed = made_optimizer(make, again, name)
            _copy(once, again)
            checkpoint.restore_optimizer(resumed, tensors, rest)
            _step(resumed, again, 1)
            _step(twin, other, 0)
            _step(twin, other, 1)
        except InputError:
            raise
        except Exception as error:  # somebody else's, or a value that JSON does not have
            raise InputError(
                f"the optimizer '{name}' cannot be stepped and saved as tensors and numbers, so that a run could go "
                f"on: {type(error).__name__}: {error}; give another"
            ) from error
    if not all(torch.equal(a, b) for a, b in zip(_tensors(again), _tensors(other), strict=True)):
        raise InputError(
            f"the optimizer '{name}' does not go on from its state as if it had not stopped, as it draws random "
            "numbers or keeps something outside of state_dict(); give another"
        )


def _tensors(groups: Groups) -> list[Tensor]:
    return [p for g in groups for p in (g["params"] if isinstance(g, dict) else [g])]


def _stand_ins(groups: Groups, device: torch.device) -> Groups:
    """Parameters of as many axes, at most two long."""
    small = lambda p: nn.Parameter(torch.ones([min(2, size) for size in p.shape], device=device))  # noqa: E731
    return [{**g, "params": [small(p) for p in g["params"]]} if isinstance(g, dict) else small(g) for g in groups]


def _copy(source: Groups, target: Groups) -> None:
    with torch.no_grad():
        for a, b in zip(_tensors(source), _tensors(target), strict=True):
            b.copy_(a)


def _step(optimizer: torch.optim.Optimizer, groups: Groups, number: int) -> None:
    for place, parameter in enumerate(_tensors(groups)):
        slope = torch.linspace(0.1, 1.0, max(1, parameter.numel()), device=parameter.device)
        parameter.grad = slope.view(parameter.shape) * (1 + place + number)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
