"""Averages of a run's weights, the cheapest strong teacher."""

from typing import Literal

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from preceptor.errors import InputError
from preceptor.models.preparation import own_memory_


def average_weights(model: nn.Module, *, kind: Literal["ema", "swa"] = "ema", decay: float = 0.999) -> AveragedModel:
    """A copy of the model that averages its weights and buffers at each call of `update_parameters(model)`.

    "ema" forgets exponentially: average <- decay average + (1 - decay) model. "swa" (arXiv 1803.05407) is
    the plain mean of all updates. Either starts as the model of its first update. Buffers are averaged too,
    so batch norm needs no second pass over the data. The averaged network itself is `.module`.

    Args:
        model: any module; it is copied, not changed.
        kind: "ema" or "swa".
        decay: what "ema" keeps of the average at each update, in [0, 1); "swa" has no use for it.

    Returns:
        torch's own `AveragedModel`; its `state_dict` holds the average and the number of updates.

    Raises:
        InputError: an unknown kind, or a decay outside [0, 1).

    >>> import torch
    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = average_weights(model, kind="swa")
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = torch.nn.init.constant_(model.weight, value)
    ...     average.update_parameters(model)
    >>> average.module.weight.item()
    3.0
    """
    if kind == "swa":
        # Not the fused default, which on a GPU cannot average integers: batch norm counts its batches in one.
        average = AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)
        own_memory_(average)
        return average
    if kind != "ema":
        raise InputError(f"kind is {kind!r}: choose 'ema' or 'swa'.")
    if not 0 <= decay < 1:
        raise InputError(f"decay is {decay}: choose it in [0, 1), for instance 0.999.")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    own_memory_(average)
    return average
