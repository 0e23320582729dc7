"""From a recipe to what the loop needs: data cut into parts, a seeded model, an objective or a loss."""

import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from preceptor import names
from preceptor.data.dataset import Data, Indexed, as_data, labels_of, require_map_style
from preceptor.data.split import checked_pools, pooled_split
from preceptor.errors import InputError
from preceptor.models.preparation import own_memory_, to_channels_last_
from preceptor.names import Trust
from preceptor.recipe import Recipe, Split
from preceptor.schema import Component
from preceptor.tasks.criterion import OFFERED, Criterion, of_loss, of_objective
from preceptor.training.streams import Streams

_HELDOUT = 0.1  # where neither the recipe nor a pool says how many


@dataclass(frozen=True)
class Samples:
    """A data set and who sees which sample of it, for one seed.

    ``parts`` holds int64 indices into ``train``: ``train``, ``heldout``, and where the recipe cuts them
    ``transfer`` and ``test``. ``test`` is the data set that the test part indexes: the data's own test set,
    or ``train``. ``labels`` (N,) are those of ``train``, ``test_labels`` those of ``test``.
    """

    seed: int
    data: Data
    train: Indexed
    test: Indexed | None
    parts: dict[str, Tensor]
    labels: Tensor
    test_labels: Tensor | None

    @property
    def for_students(self) -> Tensor:
        """What a student sees: the training part and the transfer part."""
        transfer = self.parts.get("transfer")
        return self.parts["train"] if transfer is None else torch.cat([self.parts["train"], transfer])

    @property
    def labelled(self) -> Tensor | None:
        """Bool (N,): whose labels a student may look at; None if everybody's."""
        if "transfer" not in self.parts:
            return None
        labelled = torch.zeros(len(self.train), dtype=torch.bool)
        labelled[self.parts["train"]] = True
        return labelled

    @property
    def test_indices(self) -> Tensor:
        """The test samples, as indices into ``test``."""
        assert self.test is not None
        return self.parts.get("test", torch.arange(len(self.test)))


def load_data(recipe: Recipe, data: Any = None, *, trust: Trust = False, source: str = "the recipe") -> Data:
    """The recipe's data set, or the object that the caller brings.

    Args:
        trust: which functions of somebody's own may load it; True for a recipe that the caller has given.
        source: what an error calls the recipe.

    Raises:
        InputError: no such data set, one that is not trusted, or its loader refuses the options or finds no files; no
            map-style data set; fewer than two classes.
    """
    if data is not None:
        found = as_data(data, recipe.num_classes)
    elif recipe.data is not None:
        loaded = as_data(names.call("data", recipe.data, trust=trust, source=source), recipe.num_classes)
        found = replace(loaded, origin=recipe.data.model_dump(mode="json"))
    else:
        raise InputError(
            "there are no data: the recipe lacks the key 'data'; give it the name of a data set, or hand one over",
            argument="data",
        )
    for part in (found.train, found.test):
        if part is not None:
            require_map_style(part)
    if found.num_classes < 2:
        raise InputError(f"the data set '{recipe.data_name}' has {found.num_classes} class; at least two are needed")
    return found


def cut(recipe: Recipe, data: Data, seed: int) -> Samples:
    """Cut the data into parts, by the ``split`` stream of `seed`: each from its pool, if the data have one for it.

    Raises:
        InputError: a part would be empty or hold one class only, labels are not class indices, or a pool that cannot be
            (`checked_pools`).
    """
    streams = Streams(seed, recipe.streams)
    if data.test is not None and recipe.split.test is not None:
        raise InputError(
            f"split.test is {recipe.split.test!r}, but the data set '{recipe.data_name}' has its own test set; "
            "remove split.test"
        )
    if data.test is not None and "test" in (data.pools or {}):
        raise InputError(
            f"the data set '{recipe.data_name}' has its own test set and a pool for the part 'test'; leave one out"
        )
    labels = labels_of(data.train, data.num_classes)
    pools = checked_pools(data.pools or {}, len(labels))
    parts = pooled_split(labels, _sizes(recipe.split, pools), pools, streams.generator("split"))
    test, of_test = (data.train, labels) if "test" in parts else (None, None)
    if data.test is not None:
        test, of_test = data.test, labels_of(data.test, data.num_classes)
    indexed = functools.partial(Indexed, num_classes=data.num_classes, seed=streams.seed("augmentation"))
    return Samples(seed, data, indexed(data.train), None if test is None else indexed(test), parts, labels, of_test)


def _sizes(split: Split, pools: Container[str]) -> dict[str, int | float | None]:
    """The size of each part that is cut; None, and last, for those that take what is left where they are drawn from."""
    heldout = split.heldout or (None if "heldout" in pools else _HELDOUT)
    given = {"heldout": heldout, "transfer": split.transfer, "test": split.test, "train": split.train}
    sizes = {name: size for name, size in given.items() if isinstance(size, int | float)}
    rest = "test" if split.test == "rest" and "test" not in pools else "train"
    if rest == "test" and split.train is None and "train" not in pools:
        raise InputError("split.test is 'rest', so split.train needs a size; give the number of training samples")
    left = [name for name in given if name not in sizes and (name in pools or name == rest)]
    return sizes | dict.fromkeys(left)


def new_model(recipe: Recipe, data: Data, seed: int, model: Callable[..., nn.Module] | None = None) -> nn.Module:
    """A model drawn from the ``initialization`` stream of `seed`; the global generator is left alone.

    The recipe is one that the caller was given to train: what it names is imported.

    Raises:
        InputError: no such model or option, what the factory returns is no module, or it cannot take the data's inputs.
    """
    streams = Streams(seed, recipe.streams)
    generation = [recipe.generation] if recipe.generation else []
    supplied = {"num_classes": data.num_classes, "input_shape": data.input_shape}
    name = model_name(recipe, model)
    inputs = Indexed(data.train)[[0, 1]]["input"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("initialization", *generation))
        if model is not None:
            made = model(**names.accepted(model, supplied))
        elif recipe.model is not None:
            made = names.call("model", recipe.model, supplied, trust=True)
        else:
            raise InputError(
                "there is no model: the recipe lacks the key 'model'; give it the name of one, or hand a function over "
                "that makes one",
                argument="model",
            )
        if not isinstance(made, nn.Module):
            raise InputError(f"the model '{name}' is a {type(made).__name__}, not a torch.nn.Module")
        _said(made, inputs, name)  # lazy layers are made, and their weights drawn, in the first forward pass
    for weight, tensor in made.named_parameters():
        if not is_lazy(tensor) and tensor.numel() == 0:
            raise InputError(f"the model '{name}' has a weight of no numbers, '{weight}'; give its widths above 0")
    own_memory_(made)
    to_channels_last_(made, inputs)
    return made


def _said(model: nn.Module, inputs: Tensor, name: str) -> Any:
    """What a model in eval mode makes of two inputs.

    Raises:
        InputError: it cannot take them.
    """
    was_training = model.training
    try:
        with torch.no_grad():
            return model.eval()(inputs)
    except Exception as error:  # somebody else's code
        raise InputError(
            f"the model '{name}' cannot take inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: {error}"
        ) from error
    finally:
        model.train(was_training)


def model_name(recipe: Recipe, factory: Callable[..., nn.Module] | None) -> str:
    """What an error calls the model."""
    if factory is not None:
        return getattr(factory, "__name__", type(factory).__name__)
    return recipe.model.name if recipe.model else "given"


def new_objective(component: Component, num_classes: int) -> Criterion:
    """A teacher's objective, of a recipe that is to be trained: a class of state is instantiated, a function gets its
    options.

    Raises:
        InputError: no such objective, an unknown option, or a value that it refuses.
    """
    function = names.find("objective", component.name, trust=True)
    if isinstance(function, type):
        return of_objective(names.call("objective", component, trust=True), component.name)
    names.check_options("objective", component, function, own=("logits", "labels", "mask", *OFFERED))
    return _tried(
        "objective",
        of_objective(functools.partial(function, **component.options), component.name),
        component,
        num_classes,
    )


def as_objective(objective: Callable[..., Tensor], num_classes: int) -> Criterion:
    """Somebody's own objective, tried on two examples if it has no state.

    Raises:
        InputError: it gives anything but one value per example.
    """
    criterion = of_objective(objective)
    return _tried("objective", criterion, Component(name=criterion.name), num_classes)


def new_loss(component: Component, num_classes: int) -> Criterion:
    """A student's loss, of a recipe that is to be trained: a class is instantiated, a function gets its options.

    Raises:
        InputError: no such loss, an unknown option, or a value that it refuses.
    """
    function = names.find("loss", component.name, trust=True)
    if isinstance(function, type):
        return of_loss(names.call("loss", component, trust=True), component.name)
    own = ("student_logits", "teacher_logits", "mask", *OFFERED)
    names.check_options("loss", component, function, own=own)
    return _tried(
        "loss", of_loss(functools.partial(function, **component.options), component.name), component, num_classes
    )


def as_loss(loss: Callable[..., Tensor], num_classes: int) -> Criterion:
    """Somebody's own loss, tried on two examples if it has no state.

    Raises:
        InputError: it gives neither one value per example nor one for the batch.
    """
    criterion = of_loss(loss)
    return _tried("loss", criterion, Component(name=criterion.name), num_classes)


def _tried(room: str, criterion: Criterion, component: Component, num_classes: int) -> Criterion:
    """A criterion, once it is seen on two examples that it takes its options, and whether it speaks of a batch."""
    if criterion.module is not None or set(criterion.more) - {"index"}:  # bound to a model before it can be called
        return criterion
    logits = _two_examples(num_classes)
    labels = torch.tensor([0, 1])
    given = {"logits": logits, "teacher_logits": logits, "labels": labels, "index": labels}
    values = _try(lambda: criterion(given | {"mask": torch.tensor([True, True])}), room, component)
    allowed, remedy = [(2,)], "without reduction"
    if room == "loss":
        allowed, remedy = [(2,), ()], "or a scalar if it is a statement about the batch"
    if not isinstance(values, Tensor) or tuple(values.shape) not in allowed:
        raise InputError(
            f"the {room} '{component.name}' gives {_what(values)} for 2 examples; return one value per "
            f"example, {remedy}"
        )
    return replace(criterion, batch_level=values.ndim == 0)


def _two_examples(num_classes: int) -> Tensor:
    return torch.arange(2.0 * num_classes).view(2, num_classes).sin()


def _what(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _try(call: Callable[[], Any], room: str, component: Component) -> Any:
    """Call once on a tiny batch, so that a bad value is refused before anything is written."""
    try:
        return call()
    except Exception as error:  # somebody else's code, or a number that torch cannot hold
        raise InputError(f"the {room} '{component.name}' refuses {component.options}: {error}") from error


def stack_of(samples: Sequence[Samples], part: str) -> Tensor:
    """One part's indices for each source of a stack, (S, n)."""
    return torch.stack([s.parts[part] for s in samples])
