"""Data sets by name: `data.<name>(**options) -> Data`."""

from preceptor.data.cifar import cifar10, cifar100
from preceptor.data.digits import digits
from preceptor.data.fashion_mnist import fashion_mnist
from preceptor.data.gaussian_mixture import gaussian_mixture
from preceptor.data.image_folder import image_folder
from preceptor.data.npz import npz
from preceptor.data.text import text
from preceptor.data.tiny_imagenet import tiny_imagenet
from preceptor.data.tokens import tokens

__all__ = [
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "gaussian_mixture",
    "image_folder",
    "npz",
    "text",
    "tiny_imagenet",
    "tokens",
]
