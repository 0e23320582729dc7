"""Data sets that the tests of several files wrap others in."""

from torch.utils.data import Dataset


class Wrapped(Dataset):
    """The samples of another data set, without its names, labels or anything else that it says of them."""

    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, index):
        return self.base[index]
