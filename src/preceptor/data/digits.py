"""Handwritten digits: 1,797 real 8x8 images that come inside scikit-learn."""

import torch

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize


def digits() -> Data:
    """The UCI handwritten digits as scikit-learn ships them: 1,797 samples in 10 classes, no network needed.

    Inputs are float32 (1, 8, 8), pixels 0..16 divided by 16. There is no official split: `test` is None and
    every sample is in `train`.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), CC BY 4.0.

    >>> data = digits()
    >>> len(data.train), data.input_shape, data.num_classes, data.test
    (1797, (1, 8, 8), 10, None)
    """
    from sklearn.datasets import load_digits  # takes a second to import, so only where it is used

    pixels, labels = load_digits(return_X_y=True)
    normalize = Normalize(divide_by=16.0)
    images = torch.as_tensor(pixels).reshape(-1, 1, 8, 8)
    train = ArrayDataset(normalize(images), labels, num_classes=10)
    return Data(train, None, tuple("0123456789"), normalize.as_json())
