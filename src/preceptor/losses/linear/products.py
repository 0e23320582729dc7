"""Products of matrices for a fused loss: the dtype that they are made in, and sums in float32."""

import torch
from torch import Tensor

# In half precision, so many rows of the head's gradient are made at once before they are added up in float32.
_TILE = 8192
_HALF = (torch.float16, torch.bfloat16)
_WIDE = hasattr(torch.ops.aten.mm, "dtype")  # a GPU's product of half precision comes out in float32, from torch 2.8 on


def same_dtype(states: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in one dtype, as a linear layer would have them: that of autocast where it is on, else the wider one."""
    dtype, kind = torch.promote_types(states.dtype, weight.dtype), states.device.type
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    return states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def place_for(like: Tensor, tokens: int, size: int) -> Tensor | None:
    """Where `product` may leave logits; None where it needs another dtype than that of its factors."""
    return None if _is_wide(like) else like.new_empty(tokens, size)


def _is_wide(like: Tensor) -> bool:
    return _WIDE and like.device.type == "cuda" and like.dtype in _HALF


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b, in float32 where the device makes it so of half precision; else in their own dtype, `out` if it is given."""
    if _is_wide(a):
        return torch.mm(a, b, out_dtype=torch.float32)  # pyright: ignore[reportCallIssue]
    return torch.mm(a, b, out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a^T b to `total`, which is float32 or wider."""
    if total.dtype == a.dtype:
        total.addmm_(a.t(), b)
        return
    for start in range(0, len(total), _TILE):
        total[start : start + _TILE] += product(a[:, start : start + _TILE].t(), b)
