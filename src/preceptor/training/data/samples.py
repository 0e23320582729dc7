"""Who sees which sample: the data set of a recipe, loaded and cut into parts for a seed."""

import functools
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import names
from preceptor.data.dataset import Data, Indexed, as_data, labels_of, require_map_style
from preceptor.data.shared import say_what_is_shared
from preceptor.data.split import checked_pools, pooled_split
from preceptor.data.tokenizer_files import FILES
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.recipe import Recipe, Split
from preceptor.runs.integrity import checked
from preceptor.training.data.streams import Streams

_HELDOUT = 0.1  # where neither the recipe nor a pool says how many


@dataclass(frozen=True)
class Samples:
    """A data set and who sees which sample of it, for one seed.

    ``parts`` holds int64 indices into ``train``: ``train``, ``heldout``, and where the recipe cuts them
    ``transfer`` and ``test``. ``test`` is the data set that the test part indexes: the data's own test set,
    or ``train``. ``labels`` (N,) are those of ``train``, ``test_labels`` those of ``test``; of rows of tokens (N, L),
    -100 where nothing counts.
    """

    seed: int
    data: Data
    train: Indexed
    test: Indexed | None
    parts: dict[str, Tensor]
    labels: Tensor
    test_labels: Tensor | None

    @property
    def are_tokens(self) -> bool:
        """Whether each sample is a row of tokens, with a label for each of its positions."""
        return isinstance(self.data.train, TokenDataset)

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
    def learned_labels(self) -> Tensor:
        """The labels that are learned from, int64 (N,) or of rows of tokens (N, L): -1 for samples of other parts, and
        where nothing counts.
        """
        rows = self.parts["train"]
        return torch.full_like(self.labels, -1).index_copy(0, rows, self.labels[rows].clamp(min=-1))

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
        say_what_is_shared(data)
    elif recipe.data is not None:
        _refuse_damaged(recipe.data.options.get("tokenizer"))
        given = names.call("data", recipe.data, trust=trust, source=source)
        loaded = as_data(given, recipe.num_classes)
        say_what_is_shared(given)
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


def _refuse_damaged(tokenizer: Any) -> None:
    """Refuse a run's tokenizer whose files are not those that the run has written: they would cut other tokens."""
    if isinstance(tokenizer, str) and (Path(tokenizer) / "recipe.yaml").is_file():
        for name in FILES:
            checked(Path(tokenizer), name)


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
    if isinstance(data.train, TokenDataset):
        parts = _parts_of_tokens(recipe, pools, len(labels))
    else:
        parts = pooled_split(labels, _sizes(recipe.split, pools), pools, streams.generator("split"))
    test, of_test = (data.train, labels) if "test" in parts else (None, None)
    if data.test is not None:
        test, of_test = data.test, labels_of(data.test, data.num_classes)
    indexed = functools.partial(
        Indexed, num_classes=data.num_classes, seed=streams.seed("augmentation"), collate_fn=data.collate_fn
    )
    return Samples(seed, data, indexed(data.train), None if test is None else indexed(test), parts, labels, of_test)


def _parts_of_tokens(recipe: Recipe, pools: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The parts that the data say: whole documents, whatever the seed."""
    asked = [name for name, size in recipe.split if size is not None]
    if asked:
        name = asked[0]
        remedy = f"leave split.{name} out" if name == "transfer" else f"give data.{name} in its place"
        raise InputError(
            f"split.{name} is {getattr(recipe.split, name)}, but the data set '{recipe.data_name}' tells its documents "
            f"apart itself; {remedy}"
        )
    if "heldout" not in pools:
        raise InputError("the rows of tokens have no held-out ones; give Data(pools={'heldout': rows})")
    free = torch.ones(rows, dtype=torch.bool)
    for pool in pools.values():
        free[pool] = False
    return {"train": free.nonzero()[:, 0], **pools}


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


def stack_of(samples: Sequence[Samples], part: str) -> Tensor:
    """One part's indices for each source of a stack, (S, n)."""
    return torch.stack([s.parts[part] for s in samples])
