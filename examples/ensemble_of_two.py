"""Two teachers of different architectures as one, with weights: assessed, then taught from.

$ python examples/ensemble_of_two.py
"""

import os
import tempfile

import preceptor

os.chdir(tempfile.mkdtemp())
common = {
    "data": "digits",
    "split": {"train": 300, "heldout": 200, "transfer": 600, "test": "rest"},
    "batch_size": 32,
    "device": "cpu",
}
preceptor.teach(model="mlp", folder="mlp", epochs=10, lr=0.1, **common)
preceptor.teach(model={"name": "cnn", "widths": [8, 16]}, folder="cnn", epochs=6, lr=0.1, **common)

# Each alone, both alike, and one weighing more: their probabilities are averaged. Weights are made to sum to 1.
# Held-out labels say which of these is nearest to the truth, before a student exists.
names = ["mlp", "cnn", "mlp+cnn", "mlp:0.3+cnn:0.7"]
[comparison] = preceptor.assess_teachers(names, losses="kd", transfer=False)
for teacher in comparison.teachers:
    print(f"{teacher.name:16} held-out Brier score {teacher.scores['brier']}")

# The same name teaches; on the command line: preceptor distill student.yaml --teacher mlp:0.3+cnn:0.7
student = preceptor.distill(
    teacher="mlp:0.3+cnn:0.7", model={"name": "mlp", "hidden": [16]}, folder="student", epochs=20, lr=0.1, **common
)
print(f"the student of both: {student['test']['last']['accuracy']:.1%} of the test samples are right")
