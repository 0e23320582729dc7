"""Record a teacher's answers to augmented and mixed images once; students learn from the record, without the teacher.

$ python examples/record_with_augmentation.py
"""

import shutil
import tempfile
from pathlib import Path

import preceptor

runs = Path(tempfile.mkdtemp())
shown = {
    "data": "digits",
    "split": {"train": 300, "test": "rest"},
    "augmentation": [{"name": "crop_flip", "padding": 1, "flip": False}, {"name": "cutout", "size": 2}],
    "mixing": {"name": "mixup", "alpha": 0.4},
    "device": "cpu",
}
preceptor.teach(model="cnn", epochs=25, lr=0.1, folder=runs / "teacher", **shown)

# What a student's epochs 0 to 3 would ask the teacher: each crop, square and partner is drawn again, just so, later.
record = preceptor.record(runs / "teacher", runs / "record", views=4, dtype="float16")
print(f"{len(record)} samples x {record.views} views in {record.num_bytes / 1000:.0f} kB")
shutil.rmtree(runs / "teacher")

student = {"model": {"name": "mlp", "hidden": [64]}, "epochs": 25, "lr": 0.1}
alone = preceptor.teach(**student, **shown)
# The temperature is chosen now: what is stored knows none.
taught = preceptor.distill(
    teacher=runs / "record", loss={"name": "kd", "temperature": 2.0}, ce_weight=1.0, **student, **shown
)
scores = [result["test"]["last"]["accuracy"] for result in (alone, taught)]
print(f"test accuracy of a student on labels alone {scores[0]:.3f}, with the record {scores[1]:.3f}")

# Another crop would be another input than the one that was recorded: it is refused, and the difference named.
try:
    shown["augmentation"] = [{"name": "crop_flip", "padding": 2, "flip": False}, {"name": "cutout", "size": 2}]
    preceptor.distill(teacher=runs / "record", **student, **shown)
except preceptor.InputError as error:
    print(f"refused: {error}")
