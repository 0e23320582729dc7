"""Losses of language models from hidden states and heads: what `preceptor.losses` gives of logits that never all exist.

The sum over tokens, each times its weight, comes out; its gradient is made beside it, chunk by chunk of tokens. With
`per_token` each token's loss comes out, and the gradient is made in the backward pass from logits that are made once
more. Padding, prompts and the like have weight 0; divide the weights by the number of tokens of the whole step:
``linear.kd(hidden, head.weight, (teacher_hidden, teacher_head.weight), weight=mask / count)``. There is no second
derivative, and a compiler leaves them as they are.
"""

from preceptor.losses.linear.divergences import jsd, reverse_kl, skew_kl, tvd
from preceptor.losses.linear.head import Head
from preceptor.losses.linear.labels import cross_entropy
from preceptor.losses.linear.matching import kd, ptloss, ttm, wttm

__all__ = ["Head", "cross_entropy", "jsd", "kd", "ptloss", "reverse_kl", "skew_kl", "ttm", "tvd", "wttm"]
