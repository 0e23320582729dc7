"""Cut a data set into disjoint parts that look alike."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from preceptor.data.labels import check_labels
from preceptor.errors import InputError, did_you_mean

PARTS = ("train", "heldout", "transfer", "test")


def pooled_split(
    labels: Tensor,
    sizes: Mapping[str, int | float | None],
    pools: Mapping[str, Tensor],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Disjoint named parts, each drawn from its pool; those without one from the samples that are in no pool.

    Every pool is cut by `stratified_split` on its own, and from the same state of the generator: what is drawn from one
    does not depend on the others.

    Args:
        labels: integers (N,).
        sizes: as of `stratified_split`; a fraction, or None for all that remain, is of the pool.
        pools: for some parts the samples that they may be drawn from, as `checked_pools` returns them.
        generator: a CPU generator.

    Returns and raises as `stratified_split`.

    >>> pools = {"heldout": torch.arange(6, 10)}
    >>> parts = pooled_split(torch.arange(10) % 2, {"heldout": None, "train": 0.5}, pools, torch.Generator())
    >>> parts["heldout"].tolist(), len(parts["train"])
    ([6, 7, 8, 9], 3)
    """
    state = generator.get_state()
    parts: dict[str, Tensor] = {}
    for of, names, index in _sources(list(sizes), pools, len(labels)):
        generator.set_state(state)
        drawn = stratified_split(labels[index], {name: sizes[name] for name in names}, generator, of=of)
        parts |= {name: index[rows] for name, rows in drawn.items()}
    return parts


def _sources(names: list[str], pools: Mapping[str, Tensor], total: int) -> list[tuple[str, list[str], Tensor]]:
    """What parts are drawn from: its name for errors, the parts that share it, its samples."""
    free = torch.ones(total, dtype=torch.bool)
    sharing: dict[int, list[str]] = {}  # by the first sample: two pools are the same or share none
    for name in names:
        if name in pools:
            free[pools[name]] = False
            sharing.setdefault(int(pools[name][0]), []).append(name)
    found = [(f"the pool of {' and '.join(members)}", members, pools[members[0]]) for members in sharing.values()]
    unpooled = [name for name in names if name not in pools]
    outside = "the data set outside the pools" if pools else "the data set"
    return [(outside, unpooled, free.nonzero()[:, 0]), *found] if unpooled else found


def checked_pools(pools: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """Each part's pool as int64 indices in increasing order.

    Args:
        pools: indices (n,) of the samples that a part may be drawn from, by the name of the part; parts may share a
            pool.
        num_samples: of the data set that they point into.

    Raises:
        InputError: an unknown part; a pool that is empty, holds no indices, one twice or one outside the data set; two
            pools that overlap and are not the same.

    >>> checked_pools({"heldout": torch.tensor([3, 2])}, 4)
    {'heldout': tensor([2, 3])}
    """
    found = {name: _checked_pool(name, index, num_samples) for name, index in pools.items()}
    for one, other in combinations(found, 2):
        shared = found[one][torch.isin(found[one], found[other])]
        if len(shared) and not torch.equal(found[one], found[other]):
            raise InputError(
                f"the pools of '{one}' and '{other}' share {len(shared)} samples (the first: {int(shared[0])}) and are "
                "not the same; make them equal or disjoint"
            )
    return found


def _checked_pool(name: str, index: Tensor, num_samples: int) -> Tensor:
    if name not in PARTS:
        raise InputError(f"there is a pool for the part '{name}'; {did_you_mean(name, PARTS)}")
    pool = torch.as_tensor(index)
    if pool.ndim != 1 or len(pool) == 0 or pool.dtype == torch.bool or pool.is_floating_point():
        raise InputError(
            f"the pool of '{name}' has shape {tuple(pool.shape)} and dtype {pool.dtype}; give the indices of at least "
            "one sample, integers (n,)"
        )
    outside = pool[(pool < 0) | (pool >= num_samples)]
    if len(outside):
        raise InputError(
            f"the pool of '{name}' holds sample {int(outside[0])}, but the data set has samples 0 to "
            f"{num_samples - 1}; leave it out"
        )
    values, counts = pool.to(torch.int64).unique(return_counts=True)
    if len(values) < len(pool):
        raise InputError(f"the pool of '{name}' holds sample {int(values[counts > 1][0])} twice; give each once")
    return values


def stratified_split(
    labels: Tensor,
    sizes: Mapping[str, int | float | None],
    generator: torch.Generator,
    *,
    of: str = "the data set",
) -> dict[str, Tensor]:
    """Disjoint named parts with the classes in the same proportions, as far as whole samples allow.

    Parts are drawn in the order given; a part does not depend on the sizes of those that follow. Within a
    part each class count is within one of its share of the samples that were left.

    Args:
        labels: integers (N,).
        sizes: samples of each part: a count, a fraction of N in (0, 1), or None for all that remain (at most
            one part). What no part asks for is left out.
        generator: a CPU generator; the same state gives the same parts.
        of: what an error calls the samples that are cut.

    Returns:
        For each part its sample indices, int64, in increasing order.

    Raises:
        InputError: an empty part, a part of one class only, or more samples asked for than there are.

    >>> parts = stratified_split(torch.arange(100) % 5, {"train": 0.8, "validation": None}, torch.Generator())
    >>> {name: torch.bincount(torch.arange(100)[index] % 5).tolist() for name, index in parts.items()}
    {'train': [16, 16, 16, 16, 16], 'validation': [4, 4, 4, 4, 4]}
    """
    labels = check_labels(labels)
    counts = _counts(sizes, len(labels), of)
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    parts = {}
    for name, count in counts.items():
        quotas = _quotas(count, [len(members) for members in classes], generator)
        taken = [members[:quota] for members, quota in zip(classes, quotas, strict=True)]
        classes = [members[quota:] for members, quota in zip(classes, quotas, strict=True)]
        if sum(quota > 0 for quota in quotas) < 2:
            raise InputError(f"part '{name}' with {count} samples holds one class only; make it larger")
        parts[name] = torch.cat(taken).sort().values
    return parts


def _counts(sizes: Mapping[str, int | float | None], total: int, of: str) -> dict[str, int]:
    """Each part's number of samples."""
    counts = {name: _count(name, size, total) for name, size in sizes.items() if size is not None}
    asked = sum(counts.values())
    if asked > total:
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"the parts need {asked} samples ({wanted}) but {of} has {total}; make them smaller")
    rest = [name for name, size in sizes.items() if size is None]
    if len(rest) > 1:
        raise InputError(f"parts {', '.join(rest)} all ask for the rest; only one part may have no size")
    if rest and asked == total:
        raise InputError(f"nothing is left for part '{rest[0]}'; the other parts take all {total} samples of {of}")
    return {name: counts.get(name, total - asked) for name in sizes}


def _count(name: str, size: int | float, total: int) -> int:
    fraction = isinstance(size, float)
    count = round(size * total) if fraction and 0 < size <= 1 else size
    if isinstance(count, float) or count < 1:
        share = f"{size} of {total} samples" if fraction else str(size)
        raise InputError(f"part '{name}' has size {share}; give a count of at least 1 or a fraction in (0, 1)")
    return count


def _quotas(count: int, available: list[int], generator: torch.Generator) -> list[int]:
    """Share `count` over the classes by largest remainder, ties at random, in whole-number arithmetic."""
    exact = torch.tensor(available) * count
    total = sum(available)
    quotas, remainders = exact // total, exact % total
    order = torch.randperm(len(available), generator=generator)
    order = order[remainders[order].argsort(descending=True, stable=True)]
    quotas[order[: count - int(quotas.sum())]] += 1
    return quotas.tolist()
