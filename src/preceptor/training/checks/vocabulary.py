"""Whether a language model's tokens are the data's: what it says of number 17 is read as the data's number 17."""

from collections.abc import Mapping, Sequence

from torch import nn

from preceptor.data.dataset import Data, Indexed
from preceptor.data.tokenizers import names_of
from preceptor.errors import InputError
from preceptor.inputs import call
from preceptor.models.causal_lm import CausalLM
from preceptor.models.context import keeps_apart, refuse_mixed, restart
from preceptor.models.hub import has_tokens
from preceptor.models.vocabulary import difference
from preceptor.notices import note
from preceptor.outputs import logits_of
from preceptor.tasks.teacher import Leaf, Teacher
from preceptor.training.data.samples import Samples

_LOOKED_AT = 64


def of_tokens(leaf: Leaf, samples: Samples) -> Leaf:
    """A teacher with as many outputs as the data have tokens, if it is a language model of `causal_lm`; others as they
    are.

    Raises:
        InputError: as `check_tokens` and `check_apart`; its head is narrower.
    """
    if not isinstance(leaf, Teacher):
        return leaf
    if not isinstance(leaf.model, CausalLM):
        check_apart(leaf.model, samples.data)
        return leaf
    class_names = samples.data.class_names
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


def check_apart(model: nn.Module, data: Data) -> None:
    """Refuse a language model of transformers itself that does not keep the documents of packed rows apart; those of
    `causal_lm` look after themselves.

    Args:
        model: any.
        data: of which the first rows are looked at.

    Raises:
        InputError: it does not, and these are packed.
    """
    if isinstance(model, CausalLM) or not has_tokens(model):
        return
    train = Indexed(data.train, collate_fn=data.collate_fn)
    inputs = train[list(range(min(_LOOKED_AT, len(train))))]["input"]
    places = inputs.get("position_ids") if isinstance(inputs, Mapping) else None
    if places is None or not restart(places):
        return
    ask = lambda ids, at: logits_of(call(model, {"input_ids": ids, "position_ids": at}))  # noqa: E731
    if not keeps_apart(model, ask, num_classes=2):
        refuse_mixed(model, places)
