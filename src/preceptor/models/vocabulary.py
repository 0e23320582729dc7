"""Whether two tokenizers speak of the same tokens: what a teacher says of number 17 is learned as number 17."""

from collections.abc import Mapping
from typing import Any

from preceptor.errors import InputError


def same_vocabulary(student: Any, teacher: Any) -> int:
    """How many entries of both heads are tokens, once every token has the same number for student and teacher.

    A head may be wider than its tokenizer: its last rows are padding, and no token. Give the number as ``vocabulary=``
    to a fused loss or to `preceptor.integrations.transformers.Distilled`, and they count on neither side.

    Args:
        student, teacher: tokenizers of transformers, or what ``get_vocab()`` gives: a mapping of tokens to numbers.

    Raises:
        InputError: a token that has another number, or that one of the two does not know; the first by number is
            named.

    >>> same_vocabulary({"a": 0, "b": 1, "c": 2}, {"c": 2, "a": 0, "b": 1})
    3
    """
    ours, theirs = _numbers(student), _numbers(teacher)
    found = difference(ours, theirs)
    if found is not None:
        raise InputError(
            f"the student's tokenizer {found[0]} and the teacher's {found[1]}, the first of {found[2]} differences; "
            "give a teacher of the student's tokenizer"
        )
    return max(ours.values()) + 1


def difference(ours: Mapping[str, int], theirs: Mapping[str, int]) -> tuple[str, str, int] | None:
    """What each of two maps of tokens to numbers says of the first token that they differ in, and in how many they do;
    None where they are the same.

    >>> difference({"a": 0, "b": 1}, {"a": 0, "c": 1})
    ("has 'b' as number 1", "does not know 'b'", 2)
    """
    differing = [token for token in {**theirs, **ours} if ours.get(token) != theirs.get(token)]
    if not differing:
        return None
    first = min(differing, key=lambda token: (min(_known(token, ours, theirs)), token))
    one, other = (
        f"does not know {first!r}" if first not in numbers else f"has {first!r} as number {numbers[first]}"
        for numbers in (ours, theirs)
    )
    return one, other, len(differing)


def _known(token: str, *vocabularies: Mapping[str, int]) -> list[int]:
    return [numbers[token] for numbers in vocabularies if token in numbers]


def _numbers(tokenizer: Any) -> dict[str, int]:
    read = tokenizer if isinstance(tokenizer, Mapping) else getattr(tokenizer, "get_vocab", dict)()
    if not read:
        raise InputError(
            f"a {type(tokenizer).__name__} has no tokens; give a tokenizer of transformers, or a mapping of tokens to "
            "numbers"
        )
    return dict(read)
