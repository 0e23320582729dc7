"""Tokenizers of student and teacher: one number for each token, or a sentence that names the first that differs."""

import re

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from preceptor.errors import InputError
from preceptor.integrations.transformers import same_vocabulary


def tokenizer(*words: str, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, words[0]))
    made = PreTrainedTokenizerFast(tokenizer_object=core)
    made.add_tokens(list(added))
    return made


def test_the_number_of_tokens_counts_those_that_were_added() -> None:
    assert same_vocabulary(tokenizer("a", "b"), tokenizer("a", "b")) == 2
    assert same_vocabulary(tokenizer("a", "b", added=("c",)), tokenizer("a", "b", "c")) == 3
    assert same_vocabulary({"a": 0, "c": 4}, {"c": 4, "a": 0}) == 5  # numbers without a token are no fewer


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (
            ("a", "b", "c"),
            ("a", "c", "b"),
            "student's tokenizer has 'b' as number 1 and the teacher's has 'b' as number 2",
        ),
        (("a", "b"), ("a", "b", "c"), "student's tokenizer does not know 'c' and the teacher's has 'c' as number 2"),
        (("a", "b", "c"), ("a", "b"), "student's tokenizer has 'c' as number 2 and the teacher's does not know 'c'"),
    ],
)
def test_the_first_difference_is_named(student: tuple[str, ...], teacher: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        same_vocabulary(tokenizer(*student), tokenizer(*teacher))


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="a NoneType has no tokens"):
        same_vocabulary(None, {"a": 0})
