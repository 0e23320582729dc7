"""Cut a data set into disjoint parts that look alike."""

from collections.abc import Mapping

import torch
from torch import Tensor

from preceptor.data.dataset import check_labels
from preceptor.errors import InputError


def stratified_split(
    labels: Tensor, sizes: Mapping[str, int | float | None], generator: torch.Generator
) -> dict[str, Tensor]:
    """Disjoint named parts with the classes in the same proportions, as far as whole samples allow.

    Parts are drawn in the order given; a part does not depend on the sizes of those that follow. Within a
    part each class count is within one of its share of the samples that were left.

    Args:
        labels: integers (N,).
        sizes: samples of each part: a count, a fraction of N in (0, 1), or None for all that remain (at most
            one part). What no part asks for is left out.
        generator: a CPU generator; the same state gives the same parts.

    Returns:
        For each part its sample indices, int64, in increasing order.

    Raises:
        InputError: an empty part, a part of one class only, or more samples asked for than there are.

    >>> parts = stratified_split(torch.arange(100) % 5, {"train": 0.8, "validation": None}, torch.Generator())
    >>> {name: torch.bincount(torch.arange(100)[index] % 5).tolist() for name, index in parts.items()}
    {'train': [16, 16, 16, 16, 16], 'validation': [4, 4, 4, 4, 4]}
    """
    labels = check_labels(labels)
    counts = _counts(sizes, len(labels))
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


def _counts(sizes: Mapping[str, int | float | None], total: int) -> dict[str, int]:
    """Each part's number of samples."""
    counts = {name: _count(name, size, total) for name, size in sizes.items() if size is not None}
    asked = sum(counts.values())
    if asked > total:
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"the parts need {asked} samples ({wanted}) but the data set has {total}; make them smaller")
    rest = [name for name, size in sizes.items() if size is None]
    if len(rest) > 1:
        raise InputError(f"parts {', '.join(rest)} all ask for the rest; only one part may have no size")
    if rest and asked == total:
        raise InputError(f"nothing is left for part '{rest[0]}'; the other parts take all {total} samples")
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
