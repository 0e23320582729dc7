"""Causal language models of transformers, from the inside: what their heads are given, and the heads."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.linear import Head
from preceptor.models.context import in_eval_mode

ONE_LOGIT: dict[str, Any] = {"logits_to_keep": 1}
"""What a model is called with that is to make its hidden states and no more than the last position's logits."""
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
"""What configurations call the number that logits are multiplied by (Cohere, Muse, Falcon-H1); None is 1."""
_CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""What they call the largest logit (Gemma, RecurrentGemma); None is no bound."""
_INNER_CAP = re.compile(r"attn|attention|gate|mlp|router")
"""Of soft caps that are none of the logits."""
_LARGE = 300.0
"""A logit beyond the soft caps in use (15 to 50): logits of fresh weights are too small to show one."""
_compared: "WeakSet[nn.Module]" = WeakSet()


def hidden_and_head(model: nn.Module, **inputs: Any) -> tuple[Tensor, Head]:
    """What a causal language model's head is given, and the head, for the losses of `preceptor.losses.linear`.

    The model is called as it stands, wrappers of PEFT and DDP included, but for its logits: the last position's alone
    are made, and once for each model compared with what the head makes of the hidden states, as they are and scaled up.

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
        InputError: it has no such head, one with an adapter on it or that is shared out over processes, no decoder that
            the head is put on, a soft cap that is not known here, or makes its hidden states not without all logits.
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
    if getattr(model, "get_decoder", lambda: None)() in (None, layer):
        raise _no_decoder(model)
    config = model.config.get_text_config()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    divisor = getattr(config, "logits_scaling", None)
    scale = next((float(found) for each in _FACTORS if (found := getattr(config, each, None)) is not None), 1.0)
    return Head(weight, getattr(layer, "bias", None), scale if divisor is None else 1 / divisor, _cap_of(config, name))


def _cap_of(config: Any, name: str) -> float | None:
    for key, value in vars(config).items():
        if value and re.search("soft_?cap", key) and key not in _CAPS and not _INNER_CAP.search(key):
            raise InputError(f"the configuration of {name} has {key} {value}, which is not known here; {_ALL_LOGITS}")
    return next((float(found) for each in _CAPS if (found := getattr(config, each, None)) is not None), None)


def _no_decoder(model: nn.Module) -> InputError:
    return InputError(
        f"{type(model).__name__} does not say which of its modules makes the last hidden states; {_ALL_LOGITS}"
    )


_ALL_LOGITS = "take the losses of all logits (of Distilled: fused=False)"


@contextlib.contextmanager
def catching(model: Any) -> Iterator[list[Tensor]]:
    """A list that holds the last hidden states of the model within, those of its last call."""
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if not isinstance(found, Tensor):
            raise _no_decoder(model)
        states[:] = [found]

    handle = model.get_decoder().register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()


def compared(model: nn.Module, caught: list[Tensor], logits: Tensor) -> Tensor:
    """The hidden states, once the model's own logits of the last position are what its head makes of them.

    So are those of the first row's, scaled up until logits are large, which takes the model one more token.

    Raises:
        InputError: they are others: something lies between, or comes after, which no configuration that is known here
            tells.
    """
    if not caught:
        raise InputError(f"{type(model).__name__} does not call its decoder as a module; {_ALL_LOGITS}")
    [states] = caught
    if model not in _compared:
        with torch.no_grad():
            _refuse_others(model, states[:, -1:], logits[:, -1:])
            large = _scaled_up(head_of(model), states[:1, -1:])
            own = _own_logits(model, large)
            _refuse_others(model, large, own)
        if own.any():  # a head of zeros tells nothing yet
            _compared.add(model)
    return states


def _refuse_others(model: nn.Module, states: Tensor, logits: Tensor) -> None:
    made, own = head_of(model).logits(states).float(), logits.float()
    if made.shape != own.shape or (made - own).abs().max() > 1e-3 + 0.02 * own.abs().max():
        raise InputError(
            f"{type(model).__name__} makes other logits of its last hidden states than its head does; {_ALL_LOGITS}"
        )


def _scaled_up(head: Head, states: Tensor) -> Tensor:
    """Hidden states, by a factor of which the largest logit would be `_LARGE`, if half precision holds them then."""
    raw = torch.nn.functional.linear(states, head.weight, head.bias).abs().max().float() * abs(head.scale)
    return states * torch.minimum(_LARGE / raw, 1e4 / states.abs().max().float()).clamp(1, 1e4).to(states.dtype)


def _own_logits(model: Any, states: Tensor) -> Tensor:
    """What a model makes of hidden states (1, 1, H), put in the place of a token's."""

    def put(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (states, *output[1:])
        output.last_hidden_state = states
        return output

    token = torch.zeros(1, 1, dtype=torch.int64, device=states.device)
    with in_eval_mode(model), model.get_decoder().register_forward_hook(put):
        return model(input_ids=token, **uncached(model), **ONE_LOGIT).logits
