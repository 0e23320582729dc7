"""What the text models share: a sentence is a row of UTF-8 bytes with zeros after it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from preceptor.errors import InputError


def text_length(input_shape: Sequence[int], model: str) -> int:
    """The bytes of one input.

    >>> text_length((240,), "ngram_bag")
    240
    """
    if len(input_shape) != 1:
        raise InputError(
            f"the model '{model}' reads text as rows of bytes (length,), but inputs have shape {tuple(input_shape)}; "
            "give it the data set 'text', or choose a model for these inputs"
        )
    return input_shape[0]


def require_bytes(text: Tensor) -> None:
    """Refuse what cannot be text: floats, or numbers outside 0 to 255.

    Raises:
        ValueError: naming the dtype or the number.
    """
    if text.dtype == torch.uint8:
        return
    if text.is_floating_point() or text.is_complex() or text.dtype == torch.bool:
        raise ValueError(f"text is UTF-8 bytes as uint8 or int64, not {text.dtype}; read it with the data set 'text'")
    outside = text[(text < 0) | (text > 255)]
    if len(outside):
        raise ValueError(
            f"text is UTF-8 bytes, 0 to 255, but holds {int(outside[0])}; read it with the data set 'text'"
        )


def to_texts(rows: Tensor) -> list[str]:
    """The sentences in rows of bytes (N, L); a character that was cut in the middle becomes U+FFFD.

    >>> to_texts(torch.tensor([[104, 105, 0, 0], [195, 164, 33, 0]]))
    ['hi', 'ä!']
    """
    require_bytes(rows)
    array = rows.to(device="cpu", dtype=torch.uint8).numpy()
    return [row.tobytes().rstrip(b"\0").decode("utf-8", errors="replace") for row in array]


def head(width: int, hidden: Sequence[int], num_classes: int) -> nn.Sequential:
    """Linear - ReLU for each hidden width, then linear."""
    layers: list[nn.Module] = []
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), nn.ReLU()]
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
