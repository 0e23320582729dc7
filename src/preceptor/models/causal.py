"""Causal language models of transformers, from the inside: what their heads are given, and the heads."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.linear import Head

ONE_LOGIT: dict[str, Any] = {"logits_to_keep": 1}
"""What a model is called with that is to make its hidden states and no more than the last position's logits."""
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
"""What configurations call the number that logits are multiplied by (Cohere, Muse, Falcon-H1); None is 1."""
_compared: "WeakSet[nn.Module]" = WeakSet()


def hidden_and_head(model: nn.Module, **inputs: Any) -> tuple[Tensor, Head]:
    """What a causal language model's head is given, and the head, for the losses of `preceptor.losses.linear`.

    The model is called as it stands, wrappers of PEFT and DDP included, but for its logits: the last position's alone
    are made, and once for each model compared with what the head makes of the hidden states.

    Args:
        model: a causal language model of transformers.
        inputs: what it is called with, without labels: ``input_ids``, ``attention_mask``, ...

    Returns:
        Hidden states (B, L, H) after the last norm, with gradient where that is on, and a `Head` whose weight is the
        model's own.

    Raises:
        InputError: as `head_of`; the model does not make its logits of these states by this head.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    >>> hidden, head = hidden_and_head(model, input_ids=torch.tensor([[3, 4, 5]]))
    >>> hidden.shape, head.size
    (torch.Size([1, 3, 4]), 11)
    """
    inner = inner_of(model)
    head = head_of(inner)
    with catching(inner) as states:
        logits = model(**{**inputs, **uncached(inner), **ONE_LOGIT}).logits
    return compared(inner, states, logits), head


def inner_of(model: nn.Module) -> Any:
    """The language model within wrappers of several processes (`module`), a compiler and PEFT."""
    for name in ("module", "_orig_mod"):
        model = getattr(model, name, model)
    return base_of(model)


def base_of(model: nn.Module) -> nn.Module:
    """The model within one of PEFT, or the one that there is."""
    get_base = getattr(model, "get_base_model", None)
    return model if get_base is None else get_base()


def uncached(model: nn.Module) -> dict[str, bool]:
    """What keeps a language model from keeping its keys and values for more tokens, where it is one.

    With such a cache, models of transformers let the tokens of a packed document look at the documents before it.
    """
    return {"use_cache": False} if "use_cache" in inspect.signature(base_of(model).forward).parameters else {}


def head_of(model: nn.Module) -> Head:
    """The head of a causal language model of transformers, with the scale and the soft cap of its configuration.

    Raises:
        InputError: it has no such head, one with an adapter on it or that is shared out over processes, or makes its
            hidden states not without all logits.
    """
    layer = getattr(model, "get_output_embeddings", lambda: None)()
    name = type(model).__name__
    if layer is None or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise InputError(f"{name} is no causal language model whose hidden states can be had alone; {_ALL_LOGITS}")
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or hasattr(layer, "base_layer") or hasattr(layer, "original_module"):
        raise InputError(
            f"the head of {name} is a {type(layer).__name__}, which a fused loss would take for its weight alone; "
            f"leave the head without adapter, or {_ALL_LOGITS}"
        )
    if hasattr(weight, "full_tensor") or weight.numel() == 0:
        raise InputError(f"the head of {name} is shared out over several processes (FSDP, ZeRO-3); {_ALL_LOGITS}")
    config = model.config.get_text_config()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    divisor = getattr(config, "logits_scaling", None)
    scale = next((float(found) for each in _FACTORS if (found := getattr(config, each, None)) is not None), 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(weight, getattr(layer, "bias", None), scale if divisor is None else 1 / divisor, cap)


_ALL_LOGITS = "take the losses of all logits (of Distilled: fused=False)"


@contextlib.contextmanager
def catching(model: Any) -> Iterator[list[Tensor]]:
    """A list that holds the last hidden states of the model within, those of its last call."""
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        states[:] = [output[0] if isinstance(output, tuple) else output.last_hidden_state]

    handle = model.get_decoder().register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()


def compared(model: nn.Module, caught: list[Tensor], logits: Tensor) -> Tensor:
    """The hidden states, once the model's own logits of the last position are what its head makes of them.

    Raises:
        InputError: they are others: something lies between, which no configuration that is known here tells.
    """
    if not caught:
        raise InputError(f"{type(model).__name__} does not call its decoder as a module; {_ALL_LOGITS}")
    [states] = caught
    if model not in _compared:
        with torch.no_grad():
            made, own = head_of(model).logits(states[:, -1:]).float(), logits[:, -1:].float()
        if made.shape != own.shape or (made - own).abs().max() > 1e-3 + 0.02 * own.abs().max():
            raise InputError(
                f"{type(model).__name__} makes other logits of its last hidden states than its head does; {_ALL_LOGITS}"
            )
        _compared.add(model)
    return states
