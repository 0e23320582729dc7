"""The digits inside scikit-learn, and the arithmetic of normalisation."""

import json

import torch

from preceptor.data import digits
from preceptor.data.normalize import Normalize


def test_digits():
    data = digits()
    inputs, labels = data.train.fetch(torch.arange(1797))  # type: ignore[attr-defined]
    assert inputs.shape == (1797, 1, 8, 8)
    assert inputs.dtype == torch.float32
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.test is None


def test_normalize_by_channel_and_as_json():
    normalize = Normalize(divide_by=10.0, mean=(1.0, 2.0), std=(0.5, 4.0))
    stored = torch.tensor([[[[10, 20]], [[20, 60]]]], dtype=torch.uint8)
    assert normalize(stored).tolist() == [[[[0.0, 2.0]], [[0.0, 1.0]]]]
    assert stored.tolist() == [[[[10, 20]], [[20, 60]]]]
    assert json.loads(json.dumps(normalize.as_json())) == {"divide_by": 10.0, "mean": [1.0, 2.0], "std": [0.5, 4.0]}


def test_normalize_does_not_write_into_its_input():
    stored = torch.ones(2, 3)
    assert Normalize(mean=(1.0,))(stored).sum() == 0
    assert stored.sum() == 6
