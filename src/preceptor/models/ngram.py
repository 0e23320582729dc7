"""Bags of hashed n-grams: text students of a few megabytes that need no transformer and no tokenizer at run time.

The hash is written down, in plain Python, in docs/text.md: whoever has the weights can read them without Preceptor.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.models.texts import head, require_bytes, text_length

ABSENT = -1
_BASE = 0x100000001B3  # of the polynomial in the bytes (the prime of FNV)
_KIND = 0x9E3779B97F4A7C15  # tells the kinds of n-gram apart
_MIX = 0xD6E8FEB86659FD93  # multiplies between shifts
_CHARACTERS = 256  # a character n-gram's kind is this + n, a word n-gram's is n


def ngram_bag(
    *,
    num_classes: int,
    input_shape: Sequence[int],
    buckets: int = 2**15,
    width: int = 32,
    hidden: Sequence[int] = (),
    words: Sequence[int] = (1, 2),
    characters: Sequence[int] = (3, 4, 5),
    pooling: Literal["mean", "sqrt"] = "mean",
) -> nn.Module:
    """Logits from the mean of a sentence's n-gram embeddings (fastText: Joulin et al. 2017, Bojanowski et al. 2017).

    A sentence is a row of UTF-8 bytes, zero-padded. ASCII letters are made lower case; other letters are left as they
    are. A word is a run of letters, digits, apostrophes and bytes outside ASCII; any other visible byte is a word of
    its own. Word n-grams are taken over neighbouring words, character n-grams inside a word with its two boundaries
    (a character outside ASCII counts as its two to four bytes). Each n-gram is hashed into one of the buckets, where
    n-grams may meet. What a sentence gets does not depend on its padding or on the sentences beside it.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (bytes,) of one input; inputs are uint8 or int64 (B, bytes), and may be of any other length.
        buckets: rows of the embedding table; the defaults make 4 MiB of float32.
        width: of an embedding.
        hidden: widths of the hidden layers (ReLU) between bag and logits; empty for a linear classifier.
        words: lengths of word n-grams, each 1 to 8.
        characters: lengths of character n-grams, each 2 to 8, boundaries included.
        pooling: the embeddings' sum is divided by their number ("mean") or its square root ("sqrt").

    Raises:
        InputError: inputs that are no rows of bytes, no n-grams at all, or a length or size out of range.

    >>> model = ngram_bag(num_classes=2, input_shape=(16,), buckets=64, width=4)
    >>> sentence = torch.tensor([list(b"so good :)") + [0] * 6])
    >>> model(sentence).shape
    torch.Size([1, 2])
    >>> torch.equal(model(sentence), model(sentence[:, :10]))
    True
    """
    text_length(input_shape, "ngram_bag")
    _check_lengths("words", words, 1)
    _check_lengths("characters", characters, 2)
    if not words and not characters:
        raise InputError("words and characters are both empty; give at least one length of n-gram, e.g. words=[1]")
    if not 1 <= buckets < 2**31 or width < 1:
        raise InputError(f"buckets is {buckets} and width {width}; give 1 to 2147483647 buckets of width 1 or more")
    if pooling not in ("mean", "sqrt"):
        raise InputError(f"pooling is {pooling!r}; choose 'mean' or 'sqrt'")
    return NgramBag(num_classes, buckets, width, tuple(hidden), tuple(words), tuple(characters), pooling)


def _check_lengths(option: str, lengths: Sequence[int], least: int) -> None:
    for length in lengths:
        if not isinstance(length, int) or not least <= length <= 8:
            raise InputError(f"{option} holds {length!r}; the lengths of n-grams are whole numbers from {least} to 8")


class NgramBag(nn.Module):
    """`ngram_bag`: a table of embeddings, and a head on their mean.

    Tensors: `table` (buckets, width), then `head.<i>.weight` and `head.<i>.bias` of the linear layers.
    """

    def __init__(
        self,
        num_classes: int,
        buckets: int,
        width: int,
        hidden: tuple[int, ...],
        words: tuple[int, ...],
        characters: tuple[int, ...],
        pooling: str,
    ) -> None:
        super().__init__()
        self.buckets: int = buckets
        self.words: tuple[int, ...] = words
        self.characters: tuple[int, ...] = characters
        self.pooling: str = pooling
        self.table: nn.Parameter = nn.Parameter(torch.randn(buckets, width) / width**0.5)
        self.head: nn.Sequential = head(width, hidden, num_classes)

    def prepare(self, input: Tensor) -> Tensor:
        """The part without weights: bytes (..., B, L) to the buckets of their n-grams, int32, see `ngram_buckets`."""
        return ngram_buckets(input, buckets=self.buckets, words=self.words, characters=self.characters).int()

    def forward(self, input: Tensor, prepared: bool = False) -> Tensor:
        """Logits (B, C) of bytes (B, L), or with `prepared` of what `prepare` gave for them."""
        found = input if prepared else self.prepare(input)
        number = (found != ABSENT).sum(-1, keepdim=True, dtype=torch.int32).clamp(min=1)
        total: Tensor = _SumOfRows.apply(self.table, found)  # type: ignore[assignment]
        return self.head(total / (number if self.pooling == "mean" else number.sqrt()))


# -- the lookup ----------------------------------------------------------------------------------------------


class _SumOfRows(torch.autograd.Function):
    """The sum of a table's rows, for each sentence those in its row of `found`, `ABSENT` left out.

    `nn.EmbeddingBag` with two things added: a rule for `torch.vmap`, and a gradient that is added up in less than
    half the time. Tables are (V, W), or (M, V, W) for the models of a stack; `found` is (B, K) or (M, B, K).
    """

    @staticmethod
    def forward(table: Tensor, found: Tensor) -> Tensor:
        if table.ndim == 2:
            return _sum_of_rows(table, *_compact(found))
        if found.ndim == 2:  # shared by all models
            bags = _compact(found)
            return torch.stack([_sum_of_rows(one, *bags) for one in table])
        return torch.stack([_sum_of_rows(one, *_compact(rows)) for one, rows in zip(table, found, strict=True)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, found = inputs
        ctx.save_for_backward(found)
        ctx.shape = table.shape

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        (found,), (gradient,) = ctx.saved_tensors, outputs
        total = gradient.new_zeros(ctx.shape)
        if total.ndim == 2:
            _add_to_rows(total, gradient, *_compact(found))
        elif found.ndim == 2:
            bags = _compact(found)
            for one, outer in zip(total, gradient, strict=True):
                _add_to_rows(one, outer, *bags)
        else:
            for one, outer, rows in zip(total, gradient, found, strict=True):
                _add_to_rows(one, outer, *_compact(rows))
        return total, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], *args: Tensor) -> tuple[Tensor, int]:
        table, found = args
        if table.ndim - (in_dims[0] is not None) != 2:
            raise NotImplementedError("an n-gram bag can be mapped over models once, not within another map")
        if in_dims[0] is None:  # one model, many batches
            assert in_dims[1] is not None
            batches = found.movedim(in_dims[1], 0)
            summed = _SumOfRows.apply(table, batches.flatten(0, 1))
            return summed.unflatten(0, batches.shape[:2]), 0  # type: ignore[union-attr]
        rows = found if in_dims[1] is None else found.movedim(in_dims[1], 0)
        return _SumOfRows.apply(table.movedim(in_dims[0], 0), rows), 0  # type: ignore[return-value]


def _compact(found: Tensor) -> tuple[Tensor, Tensor]:
    """The buckets that are there, one sentence after the other, and how many each sentence has."""
    there = found != ABSENT
    return found.masked_select(there), there.sum(-1, dtype=torch.int32)


def _sum_of_rows(table: Tensor, flat: Tensor, number: Tensor) -> Tensor:
    return F.embedding_bag(flat, table, number.cumsum(0, dtype=torch.int32) - number, mode="sum")


def _add_to_rows(total: Tensor, gradient: Tensor, flat: Tensor, number: Tensor) -> None:
    # int64: with int32 indices, `index_add_` takes five times as long
    total.index_add_(0, flat.long(), gradient.repeat_interleave(number, 0))


# -- the hash ------------------------------------------------------------------------------------------------


def ngram_buckets(text: Tensor, *, buckets: int, words: Sequence[int] = (), characters: Sequence[int] = ()) -> Tensor:
    """The bucket of each n-gram of each sentence; the same on every machine.

    Args:
        text: uint8 or int64 (..., L), UTF-8 bytes with zeros after them.
        buckets: n-grams are hashed to [0, buckets).
        words: lengths of word n-grams, 1 or more.
        characters: lengths of character n-grams, 2 or more.

    Returns:
        int64 (..., K), K the largest number of n-grams in a sentence of this batch; -1 after those of shorter ones.
        N-grams that occur twice are there twice.

    Raises:
        ValueError: inputs that are no bytes.

    >>> ngram_buckets(torch.tensor([list(b"a b"), list(b"A  ")]), buckets=100, words=[1]).tolist()
    [[54, 10], [54, -1]]
    """
    require_bytes(text)
    lead, text = text.shape[:-1], _without_padding(text.reshape(-1, text.shape[-1]))
    row, byte, first = _visible(text)
    place = torch.arange(len(byte), device=text.device) + first.cumsum(0) + row
    size = len(byte) + int(first.sum()) + len(text)
    # Every word is preceded by one boundary (0), and every sentence ends in one.
    string = torch.zeros(size, dtype=torch.int64, device=text.device).index_put((place,), byte)
    kinds = len(words) + len(characters)
    hashes = torch.zeros(size, kinds, dtype=torch.int64, device=text.device)
    valid = torch.zeros(size, kinds, dtype=torch.bool, device=text.device)
    _hash_words(hashes, valid, words, place, row, byte, first)
    _hash_characters(hashes[:, len(words) :], valid[:, len(words) :], characters, string)
    lengths = 1 + torch.zeros(len(text), dtype=torch.int64, device=text.device).index_add(0, row, 1 + first.long())
    numbers = _sum_over(valid.sum(1), lengths)
    rectangle = _rectangle(_bucket(hashes.masked_select(valid), buckets), numbers)
    return rectangle.view(*lead, rectangle.shape[-1])


def _without_padding(text: Tensor) -> Tensor:
    """The columns up to the longest sentence's last byte."""
    used = text.any(0).nonzero()
    return text[:, : int(used[-1]) + 1] if len(used) else text[:, :0]


def _visible(text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bytes (F,) that are neither white space nor padding, in lower case: row, value, and whether a word begins."""
    upper = (text >= ord("A")) & (text <= ord("Z"))
    text = text + 32 * upper.to(text.dtype)
    inside = (text >= ord("a")) & (text <= ord("z"))
    inside |= (text >= ord("0")) & (text <= ord("9"))
    inside |= (text >= 128) | (text == ord("'"))
    begins = ~(inside & F.pad(inside[:, :-1], (1, 0)))
    row, column = (text > ord(" ")).nonzero(as_tuple=True)
    return row, text[row, column].long(), begins[row, column]


def _hash_words(
    hashes: Tensor, valid: Tensor, lengths: Sequence[int], place: Tensor, row: Tensor, byte: Tensor, first: Tensor
) -> None:
    """Fill in the hash of each word n-gram where its first word begins."""
    begin = first.nonzero().squeeze(1)
    word = first.cumsum(0) - 1
    offset = torch.arange(len(byte), device=byte.device) - begin[word]
    whole = torch.zeros_like(begin).index_add(0, word, byte * _powers(offset))
    whole, row, place = _mix(_mix(whole)), row[begin], place[begin]
    for n in range(1, max(lengths, default=0) + 1):
        count = max(0, len(whole) - n + 1)
        value = whole[:count] if n == 1 else value[:count] * _BASE + whole[n - 1 :]  # type: ignore[possibly-unbound]
        if n in lengths:
            kind = list(lengths).index(n)
            hashes[place[:count], kind] = value + _signed(n * _KIND)
            valid[place[:count], kind] = row[:count] == row[n - 1 :]


def _hash_characters(hashes: Tensor, valid: Tensor, lengths: Sequence[int], string: Tensor) -> None:
    """Fill in the hash of each character n-gram where it begins: boundaries may be its two ends, and nothing else."""
    visible = string != 0
    value, fits = string, visible
    for n in range(2, max(lengths, default=0) + 1):
        count = max(0, len(string) - n + 1)
        value = value[:count] * _BASE + string[n - 1 :]
        if n == 2:
            fits = visible[:count] | visible[1:]
        else:
            fits = visible[1 : count + 1] if n == 3 else fits[:count] & visible[n - 2 : n - 2 + count]
        if n in lengths:
            kind = list(lengths).index(n)
            hashes[:count, kind] = value + _signed((_CHARACTERS + n) * _KIND)
            valid[:count, kind] = fits


def _powers(exponent: Tensor) -> Tensor:
    """_BASE ** exponent, modulo 2**64."""
    most = int(exponent.max()) + 1 if len(exponent) else 1
    table = torch.full((most,), _BASE, dtype=torch.int64, device=exponent.device)
    table[0] = 1
    return table.cumprod(0)[exponent]


def _mix(value: Tensor) -> Tensor:
    """One round: every bit of the upper half comes to depend on all bits. int64 wraps around, as if unsigned."""
    return (value ^ ((value >> 32) & 0xFFFFFFFF)) * _signed(_MIX)


def _bucket(value: Tensor, buckets: int) -> Tensor:
    """From 64 bits to [0, buckets): two rounds of mixing, then the upper 31 bits as a fraction of all buckets."""
    return (((_mix(_mix(value)) >> 33) & 0x7FFFFFFF) * buckets) >> 31


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def _sum_over(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums over consecutive stretches of `values`."""
    total = F.pad(values.cumsum(0), (1, 0))
    end = lengths.cumsum(0)
    return total[end] - total[end - lengths]


def _rectangle(flat: Tensor, numbers: Tensor) -> Tensor:
    """Stretches of `flat` as rows (N, K) of the longest one's length, with `ABSENT` after the shorter ones."""
    most = int(numbers.max()) if len(numbers) else 0
    there = torch.arange(most, device=flat.device) < numbers[:, None]
    return torch.full(there.shape, ABSENT, dtype=torch.int64, device=flat.device).masked_scatter(there, flat)
