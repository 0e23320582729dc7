"""Whether a language model's tokens are the data's: what it says of number 17 is read as the data's number 17."""

from collections.abc import Sequence

from torch import nn

from preceptor.data.tokenizers import names_of
from preceptor.errors import InputError
from preceptor.models.causal_lm import CausalLM
from preceptor.models.vocabulary import difference
from preceptor.notices import note
from preceptor.tasks.teacher import Leaf, Teacher


def of_tokens(leaf: Leaf, class_names: Sequence[str]) -> Leaf:
    """A teacher with as many outputs as the data have tokens, if it is a language model of `causal_lm`; others as they
    are.

    Raises:
        InputError: as `check_tokens`; its head is narrower.
    """
    if not isinstance(leaf, Teacher) or not isinstance(leaf.model, CausalLM):
        return leaf
    if not leaf.class_names:  # else they have been compared
        check_tokens(leaf.model, class_names)
    return leaf.with_model(leaf.model.with_classes(len(class_names)))


def check_tokens(model: nn.Module, class_names: Sequence[str]) -> None:
    """Refuse a language model from a folder whose tokenizer is not the data's; where it has none, note that.

    Args:
        model: others than those of `causal_lm` pass.
        class_names: the data's tokens in order of their numbers.

    Raises:
        InputError: a token that has another number, or that one of the two does not know.
    """
    if not isinstance(model, CausalLM) or not model.source:
        return
    if model.tokenizer is None:
        note(
            f"the language model '{model.source}' has no tokenizer beside it, so that only sizes were compared: its "
            f"head has {model.head_size} rows and the data {len(class_names)} tokens"
        )
        return
    ours, theirs = (
        {name: number for number, name in enumerate(names)}
        for names in (class_names, names_of(model.tokenizer.get_vocab()))
    )
    found = difference(ours, theirs)
    if found is not None:
        raise InputError(
            f"the data's tokenizer {found[0]} and that of the language model '{model.source}' {found[1]}, the first of "
            f"{found[2]} differences; give data.tokenizer={model.source}, or a model of the data's tokenizer"
        )
