#!/usr/bin/env bash
# lightning 2.6.6 (torch 2.13.0): EMAWeightAveraging with a late start validates, and in the end keeps, the untrained weights.
#
# The average starts as a copy of the model before training. Until update_starting_at_step it is swapped in for validation all
# the same, so that the metric by which runs stop, or checkpoints are chosen, is of the untrained model; where training ends
# before the start, that copy is written over what was trained. update_starting_at_epoch does not delay anything: updates by
# step go on from the first one, unless update_every_n_steps=0 is given with it.
#
# Seen, 32 steps, validation loss of 4 epochs:   no callback                   0.1642 0.0066 0.0003 0.0000, left 0.0000
#                                                update_starting_at_step=100   5.0353 5.0353 5.0353 5.0353, left 5.0353
#                           no start given, and update_starting_at_epoch=100   1.7189 0.4265 0.0893 0.0175, left 0.0175
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.0 lightning==2.6.6
cat >"$folder/see.py" <<'PYTHON'
import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
data = TensorDataset(inputs, inputs.sum(1, keepdim=True))


class Student(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.seen = nn.Linear(4, 1), []

    def loss(self, batch):
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def training_step(self, batch, index):
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.seen.append(f"{self.loss(batch):.4f}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(*callbacks):
    student = Student()
    untrained = student.model.weight.detach().clone()
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, enable_checkpointing=False, callbacks=list(callbacks),
    )
    trainer.fit(student, DataLoader(data, 8), DataLoader(data, 64))
    with torch.no_grad():
        left = float(student.loss(data.tensors))
    return student.seen, left, torch.equal(student.model.weight, untrained)


plain, average = run(), run(EMAWeightAveraging(decay=0.9))
late = run(EMAWeightAveraging(decay=0.9, update_starting_at_step=100))
epoch = run(EMAWeightAveraging(decay=0.9, update_starting_at_epoch=100))
for name, (seen, left, untrained) in {
    "no callback": plain, "no start": average, "starting at step 100": late, "starting at epoch 100": epoch
}.items():
    print(f"{name}: validation {' '.join(seen)}, left {left:.4f}{', the untrained weights' if untrained else ''}")
assert plain[1] < 1e-3 and late[2] and set(late[0]) == {f"{late[1]:.4f}"} and late[1] > 1
assert epoch == average and not average[2] and average[1] < 0.1
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/see.py" 2>/dev/null
