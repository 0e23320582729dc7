"""Model families: `models.<name>(*, num_classes, input_shape, **options) -> nn.Module`, logits out."""

from preceptor.models.causal_lm import causal_lm
from preceptor.models.classifiers import image_classifier, text_classifier
from preceptor.models.cnn import cnn
from preceptor.models.encoder import text_encoder
from preceptor.models.mlp import mlp
from preceptor.models.mobilenet import mobilenet_v2
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
from preceptor.models.resnet50 import resnet50
from preceptor.models.reused import reused_head
from preceptor.models.shufflenet import shufflenet_v1, shufflenet_v2
from preceptor.models.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from preceptor.models.wrn import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "causal_lm",
    "cnn",
    "image_classifier",
    "mlp",
    "mobilenet_v2",
    "ngram_bag",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "reused_head",
    "shufflenet_v1",
    "shufflenet_v2",
    "text_classifier",
    "text_encoder",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
