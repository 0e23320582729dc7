"""Learn from logits that exist only as a Parquet file: its rows find their samples by id, in whatever order they are.

$ python examples/stored_logits.py
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import preceptor
from preceptor.data.dataset import ArrayDataset, Data

digits = load_digits()
theirs, ours = slice(600), slice(600, None)
pixels, labels = digits.data / 16, digits.target
ids = [f"scan-{number:04d}" for number in range(600, len(pixels))]
inputs = torch.tensor(pixels[ours], dtype=torch.float32)
data = Data(ArrayDataset(inputs, labels[ours], ids=ids), None, tuple("0123456789"))

# Somebody else's teacher, of which only a file is left: an id, ten logits and a label in each row, in another order.
model = LogisticRegression(max_iter=300).fit(pixels[theirs], labels[theirs])
order = np.random.default_rng(0).permutation(len(ids))
columns = {
    "id": [ids[row] for row in order],
    "logits": list(model.decision_function(pixels[ours][order]).astype("float32")),
    "label": labels[ours][order],
}
file = Path(tempfile.mkdtemp()) / "logits.parquet"
pq.write_table(pa.table(columns), file)

student = {"model": {"name": "mlp", "hidden": [32]}, "epochs": 20, "lr": 0.1, "device": "cpu"}
split = {"train": 60, "transfer": 600, "test": "rest"}  # 60 samples have labels, 600 the stored logits alone
alone = preceptor.teach(data=data, split=split, **student | {"epochs": 200})  # as many steps
taught = preceptor.distill(teacher=file, data=data, split=split, loss={"name": "kd", "temperature": 2.0}, **student)
scores = [result["test"]["last"]["accuracy"] for result in (alone, taught)]
print(f"test accuracy on labels alone {scores[0]:.3f}, with the stored logits {scores[1]:.3f}")

# Labels beside the logits are compared with the data's: a file of other samples is refused.
pq.write_table(pa.table({**columns, "id": columns["id"][::-1]}), file)
try:
    preceptor.distill(teacher=file, data=data, split=split, **student)
except preceptor.InputError as error:
    print(f"refused: {error}")
