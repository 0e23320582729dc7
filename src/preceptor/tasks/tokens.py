"""Rows of tokens: each position that counts is an example of its own, and its next token the label."""

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.targets import Targets

COUNTED = "positions that count"
"""What the batch of the positions that count brings beside them: bool (B, L), which of its rows they are."""


def has_tokens(batch: Mapping[str, Any], lead: int = 0) -> bool:
    """Whether the samples of a batch have a label for each of their positions: ``label`` is (B, L).

    Args:
        lead: leading axes that are models of a stack, whose samples have one label each.
    """
    return not lead and batch["label"].ndim == 2


def mask_of_tokens(example: Mapping[str, Any]) -> Tensor | None:
    """Which positions of a batch of rows of tokens count, bool (B, L); None of a batch of anything else."""
    label = example.get("label")
    if not isinstance(label, Tensor) or label.ndim != 2:
        return None
    return example.get("mask", torch.ones_like(label, dtype=torch.bool))


def tokens_alone(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of rows (B, L) as one of the n positions that count, each with the index of its row.

    >>> batch = {"label": torch.tensor([[5, -100], [7, 8]]), "mask": torch.tensor([[True, False], [True, True]])}
    >>> alone = tokens_alone({**batch, "index": torch.tensor([3, 4])})
    >>> alone["label"], alone["index"]
    (tensor([5, 7, 8]), tensor([3, 4, 4]))
    """
    mask = batch["mask"]
    alone = {**batch, "label": batch["label"][mask], "mask": mask[mask], COUNTED: mask}
    if "index" in batch:
        alone["index"] = batch["index"][:, None].expand_as(mask)[mask]
    return alone


@overload
def of_tokens(rows: Tensor, mask: Tensor, whose: str = ...) -> Tensor: ...
@overload
def of_tokens(rows: Tensor | Targets, mask: Tensor, whose: str = ...) -> Tensor | Targets: ...


def of_tokens(rows: Tensor | Targets, mask: Tensor, whose: str = "the model") -> Tensor | Targets:
    """What is said of the n positions that count, in their order.

    Args:
        rows: of all positions, (B, L, ...), or of these alone, (n, ...).
        mask: bool (B, L).
        whose: who an error calls the speaker.

    Raises:
        InputError: it is of other positions.
    """
    if tuple(rows.shape[:2]) == tuple(mask.shape) and len(rows.shape) > 2:
        return rows[mask]
    count = int(mask.sum())
    if len(rows.shape) == 2 and rows.shape[0] == count:
        return rows
    raise InputError(
        f"{whose} answers with shape {tuple(rows.shape)} to rows of tokens {tuple(mask.shape)}, {count} of which "
        "count; give logits (B, L, C) of all positions, or (n, C) of those that count"
    )


def features_of_tokens(features: Mapping[str, Tensor], mask: Tensor, whose: str) -> dict[str, Tensor]:
    """Features of the n positions that count, (n, ...), each an example of its own as its logits are.

    Args:
        features: by tap, (B, L, ...).
        mask: bool (B, L).
        whose: who an error calls the model.

    Raises:
        InputError: a tap whose feature is not of each position.
    """
    for name, each in features.items():
        if tuple(each.shape[:2]) != tuple(mask.shape) or each.ndim < 3:
            raise InputError(
                f"the tap '{name}' of the {whose} has shape {tuple(each.shape)}, which is not of each position of rows "
                f"of tokens {tuple(mask.shape)}; name a module whose output is, such as a block"
            )
    return {name: each[mask.to(each.device)] for name, each in features.items()}


def taught_of_tokens(taught: Mapping[str, Any], mask: Tensor) -> dict[str, Any]:
    """A teacher's ``teacher_logits`` and ``teacher_features`` of the n positions that count, and what else there is."""
    return {
        **taught,
        "teacher_logits": of_tokens(taught["teacher_logits"], mask, "the teacher"),
        "teacher_features": features_of_tokens(taught.get("teacher_features", {}), mask, "teacher"),
    }
