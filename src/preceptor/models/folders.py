"""What transformers has saved to a folder, whatever it is of the kinds that teach."""

from pathlib import Path

from torch import nn

from preceptor.models.causal_lm import causal_lm_of
from preceptor.models.classifiers import classifier_of
from preceptor.models.hub import architectures

_LANGUAGE = ("ForCausalLM", "LMHeadModel")


def pretrained_of(folder: Path) -> nn.Module:
    """A causal language model or a classifier that transformers has saved to a folder.

    Raises:
        InputError: as `preceptor.models.causal_lm`; as `classifier_of`.
    """
    if any(each.endswith(_LANGUAGE) for each in architectures(folder)):
        return causal_lm_of(folder)
    return classifier_of(folder)
