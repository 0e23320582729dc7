"""Stub."""
import torch
from torch.utils.data import Dataset
from preceptor.losses.tokens import shifted


class TokenDataset(Dataset):
    def __init__(self, ids, positions=None, documents=None, byte_counts=None):
        self.ids = ids
        self.positions = torch.arange(ids.shape[1]).expand_as(ids).clone() if positions is None else positions
        self.labels = shifted(ids, self.positions)
        self.documents = torch.arange(len(ids))[:, None].expand_as(ids).clone() if documents is None else documents
        self.byte_counts = (self.labels >= 0).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input": {"input_ids": self.ids[i], "position_ids": self.positions[i]}, "label": self.labels[i], "mask": self.labels[i] != -100}
