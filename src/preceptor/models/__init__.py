"""Model families: `models.<name>(*, num_classes, input_shape, **options) -> nn.Module`, logits out."""

from preceptor.models.cnn import cnn
from preceptor.models.encoder import text_encoder
from preceptor.models.mlp import mlp
from preceptor.models.ngram import ngram_bag
from preceptor.models.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from preceptor.models.wrn import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "cnn",
    "mlp",
    "ngram_bag",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet56",
    "resnet110",
    "text_encoder",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
