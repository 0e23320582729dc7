"""A student out of its run: as an ONNX graph with all that is round it, checked; and its answers to new inputs.

$ python examples/export_and_predict.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

import preceptor

folder = Path(tempfile.mkdtemp())
small = {"split": {"train": 300, "heldout": 200, "test": "rest"}, "device": "cpu", "batch_size": 32, "lr": 0.1}

preceptor.teach(data="digits", model="mlp", folder=folder / "teacher", epochs=10, **small)
preceptor.distill(
    teacher=folder / "teacher", data="digits", model="cnn", folder=folder / "student", loss="wttm", epochs=5, **small
)

# Numbers as the data set has them (here 0 to 16) in, logits and probabilities out: normalisation is in the graph.
# Above the allowed difference from the predictions that the run has stored, this raises, and there is no file.
done = preceptor.export(folder / "student", to="onnx", path=folder / "student.onnx")
print(f"{done.path.name}: a probability differs by {done.difference:.0e} at most, over {done.samples} held-out samples")

# Without Preceptor: any number of images at once, and the class names are in the file.
images = load_digits().images[:6, None].astype(np.float32)
session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
_, probabilities = session.run(["logits", "probabilities"], {"input": images})
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
print("onnxruntime:", *(names[label] for label in probabilities.argmax(-1)))

# With it, from the run itself: arrays, and where runs are of those, image files and lines of text.
answers = preceptor.predict(folder / "student", images)
print("preceptor:  ", *answers.columns()["class"])
assert np.abs(answers.probabilities - probabilities).max() < 1e-4
