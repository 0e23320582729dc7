"""A folder of images, two timm models, and out again as an ONNX file that onnxruntime runs on pixels.

$ python examples/timm_imagefolder_onnx.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import preceptor

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
for name, color in {"leaf": (60, 160, 60), "sand": (210, 180, 120), "sea": (40, 90, 170)}.items():
    for part, count in {"train": 40, "val": 20, "test": 20}.items():
        place = folder / "images" / part / name
        place.mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(color, 70, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")

# train, val (held out) and test are folders of images/; another size is scaled and cropped to `size`.
data = {"name": "image_folder", "folder": str(folder / "images"), "size": 32}
common = {"data": data, "batch_size": 20, "device": "cpu"}


def timm(model_name: str, **options: object) -> dict[str, object]:
    """One of timm's models; with pretrained=True the weights are downloaded, and the head is made for our classes."""
    return {"name": "timm:create_model", "model_name": model_name, "pretrained": False, **options}


# A teacher that learns: with pretrained=True its head alone is new, so it is trained before it teaches.
preceptor.teach(model=timm("test_resnet"), folder=folder / "teacher", epochs=4, lr=0.05, **common)
preceptor.distill(
    teacher=f"{folder}/teacher:best",
    trust=["timm:create_model"],  # the run names code that is not Preceptor's: it is imported if you say so
    model=timm("test_efficientnet"),
    folder=folder / "student",
    epochs=4,
    lr=0.05,
    **common,
)
done = preceptor.export(folder / "student", to="onnx", trust=["timm:create_model"])
print(f"student.onnx: {done.difference:.0e} from what the run has stored, at most")

# Elsewhere, onnxruntime is all that is needed: bytes in, as ImageNet's mean and standard deviation are in the graph.
files = sorted((folder / "images" / "test").rglob("*.png"))
pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
[probabilities] = session.run(["probabilities"], {"input": pixels})
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
right = np.mean([file.parent.name == names[label] for file, label in zip(files, probabilities.argmax(-1), strict=True)])
print(f"of {len(files)} test images {right:.0%} are right")
