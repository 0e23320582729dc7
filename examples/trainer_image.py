"""Distil an image classifier in the Trainer of transformers: a ViT teacher, a narrower ViT student.

$ python examples/trainer_image.py
"""

import torch
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, ViTConfig

from preceptor.integrations.transformers import Distilled

digits = load_digits()
pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8)
rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, digits.target, strict=True)]
train, test = rows[:1000], rows[1400:]


def vit(width):  # yours: AutoModelForImageClassification.from_pretrained(...), with its image processor in the data
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **sizes)
    return AutoModelForImageClassification.from_config(config)


def arguments(epochs):
    return TrainingArguments(
        output_dir="trainer_image",
        per_device_train_batch_size=50,
        num_train_epochs=epochs,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="epoch",
    )


def accuracy(trainer):
    found = trainer.predict(test)
    return (found.predictions.argmax(-1) == found.label_ids).mean()


torch.manual_seed(0)
taught = Trainer(model=vit(64), args=arguments(8), train_dataset=train)
taught.train()
student = Distilled(Trainer)(
    model=vit(24),
    args=arguments(8),
    train_dataset=train,
    teacher=taught.model,
    loss={"name": "wttm", "temperature": 4.0},
    ce_weight=1.0,
    distill_weight=1.0,
)
student.train()  # its log has ce and distill beside the loss
print(f"accuracy of the teacher {accuracy(taught):.2f}, of the student {accuracy(student):.2f}")
