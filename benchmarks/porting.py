"""The same logits, temperature and weight 1 through the distillation losses of others (docs/porting.md).

    benchmarks/porting.sh    # in an environment of these libraries that is thrown away after (8 GB with torch for CUDA)

A library that is not installed is left out, and said.
"""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.losses import kd

os.environ |= {"KERAS_BACKEND": "torch", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

ROWS, CLASSES, TEMPERATURE = 64, 10, 4.0
_draws = torch.Generator().manual_seed(0)
STUDENT = torch.randn(ROWS, CLASSES, generator=_draws, dtype=torch.float64) * 3
TEACHER = torch.randn(ROWS, CLASSES, generator=_draws, dtype=torch.float64) * 3
LABELS = torch.arange(ROWS) % CLASSES
T = TEMPERATURE


class _Logits(nn.Module):
    """A model whose logits are a parameter, or a constant."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.num_classes, self.in_chans = CLASSES, 3

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


def plain() -> Tensor:
    p, q = (TEACHER / T).softmax(-1), (STUDENT / T).log_softmax(-1)
    return T**2 * (p * (p.log() - q)).sum(-1).mean()


def timm(**weights: Any) -> Tensor:
    from timm.task import LogitDistillationTask

    task = LogitDistillationTask(
        student_model=_Logits(STUDENT),
        teacher_model=_Logits(TEACHER),
        criterion=nn.CrossEntropyLoss(),
        temperature=T,
        dtype=torch.float64,
        verbose=False,
        **weights,
    )
    found = task(torch.zeros(1, 3, 1, 1, dtype=torch.float64), LABELS)
    return found["loss"] if weights else found["kd_loss"]


def modelopt(reduction: str = "mean") -> Tensor:
    from modelopt.torch.distill.losses import LogitsDistillationLoss

    return LogitsDistillationLoss(temperature=T, reduction=reduction)(STUDENT, TEACHER)


def torchdistill(alpha: float, targets: Tensor | None = LABELS) -> Tensor:
    from torchdistill.losses.mid_level import KDLoss

    loss = KDLoss("out", "output", "out", "output", temperature=T, alpha=alpha)
    return loss({"out": {"output": STUDENT}}, {"out": {"output": TEACHER}}, targets)


def textbrewer() -> Tensor:
    from textbrewer.losses import kd_ce_loss

    return kd_ce_loss(STUDENT, TEACHER, temperature=T)


def trl(beta: float = 0.0) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    labels = LABELS[:, None]
    return GKDTrainer.generalized_jsd_loss(STUDENT[:, None], TEACHER[:, None], labels, beta=beta, temperature=T)


def liger(beta: float = 0.0) -> Tensor:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction as Fused

    return Fused.distillation_loss_fn(STUDENT / T, TEACHER / T, beta=beta) / ROWS


def keras(loss: Any) -> Tensor:
    import keras

    loss = keras.losses.KLDivergence() if loss is None else loss
    given = (torch.tensor(each.numpy(), dtype=torch.float32) for each in (TEACHER, STUDENT))
    return keras.distillation.LogitsDistillation(temperature=T, loss=loss).compute_loss(*given)


LOSSES: list[tuple[str, str, Callable[[], Tensor]]] = [
    ("preceptor", "`kd(temperature=4).mean()`", lambda: kd(STUDENT, TEACHER, temperature=T).mean()),
    ("timm", "`LogitDistillationTask`, its `kd_loss`", timm),
    ("timm", "the same, `loss` with `distill_loss_weight=1`", lambda: timm(distill_loss_weight=1.0)),
    ("nvidia-modelopt", "`LogitsDistillationLoss(4)`", modelopt),
    ("nvidia-modelopt", '`... reduction="batchmean"`', lambda: modelopt("batchmean")),
    ("torchdistill", "`KDLoss(alpha=0)`", lambda: torchdistill(0.0)),
    ("torchdistill", "`KDLoss(alpha=1e-9)`", lambda: torchdistill(1e-9)),
    ("textbrewer", "`kd_ce_loss(temperature=4)`", textbrewer),
    ("trl", "`GKDTrainer.generalized_jsd_loss(beta=0)`", trl),
    ("trl", "the same, `beta=0.5`, its default", lambda: trl(0.5)),
    ("liger-kernel", "`LigerFusedLinearJSD(beta=0)`, a token", liger),
    ("keras", "`LogitsDistillation(temperature=4)`", lambda: keras("kl_divergence")),
    ("keras", "the same, `loss=KLDivergence()`", lambda: keras(None)),
]


def what_it_is(value: float) -> str:
    """The formula that gives this number, of those that are in use."""
    p, q = (TEACHER / T).softmax(-1), (STUDENT / T).softmax(-1)
    kl = (p * (p.log() - q.log())).sum(-1).mean()
    clipped = [(each / T).clamp(1e-7, 1) for each in (TEACHER, STUDENT)]
    m = (p + q) / 2
    known = {
        "T² KL(p_T ‖ q_T)": T**2 * kl,
        "the same over the number of classes": T**2 * kl / CLASSES,
        "KL(p_T ‖ q_T), no T²": kl,
        "cross-entropy H(p_T, q_T), no T²": kl - (p * p.log()).sum(-1).mean(),
        "T² KL + cross-entropy to the labels": T**2 * kl + F.cross_entropy(STUDENT, LABELS),
        "half the Jensen-Shannon mixture, no T²": 0.5 * (p * (p / m).log() + q * (q / m).log()).sum(-1).mean(),
        "KL of raw logits / T clipped to [1e-7, 1], no softmax": (clipped[0] * (clipped[0] / clipped[1]).log())
        .sum(-1)
        .mean(),
    }
    name, nearest = min(known.items(), key=lambda pair: abs(float(pair[1]) - value))
    return name if abs(float(nearest) - value) <= 1e-5 * abs(value) else "none of the usual"


def losses() -> None:
    print("| library | what is called | value | over ours | what it is |\n|---|---|--:|--:|---|")
    ours = float(plain())
    for library, called, function in LOSSES:
        try:
            name = f"{library} {version(library)}"
        except PackageNotFoundError:
            print(f"| {library} | {called} | not installed | | |")
            continue
        value = float(function().detach())
        print(f"| {name} | {called} | {value:.4f} | {value / ours:.4f} | {what_it_is(value)} |")


# -- logits over a border ----------------------------------------------------------------------------------------------


def by_datasets(logits: np.ndarray, folder: Path) -> str:
    import datasets

    table = datasets.Dataset.from_dict({"logits": list(logits)})
    read = np.asarray(table.with_format("numpy")["logits"])
    back = np.asarray(table["logits"][:])
    return f'`with_format("numpy")` gives {read.dtype}, without a format {back.dtype}'


def by_pyarrow(logits: np.ndarray, folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"logits": list(logits)}), folder / "logits.parquet")
    column = pq.read_table(folder / "logits.parquet")["logits"]
    read = column.to_numpy()
    flat = column.combine_chunks().values.to_numpy().reshape(len(column), -1)
    return (
        f"`to_numpy()` gives an array of {read.dtype}, of {read[0].dtype} rows; `.values` reshaped gives {flat.dtype}"
    )


_READ = """
import sys
if sys.argv[2] == "with":
    import ml_dtypes
from safetensors.numpy import load_file
try:
    print(load_file(sys.argv[1])["logits"].dtype)
except Exception as error:
    print(type(error).__name__)
"""


def by_safetensors(logits: np.ndarray, folder: Path) -> str:
    from safetensors.torch import save_file

    path, found = folder / "logits.safetensors", []
    for name in ("bfloat16", "float8_e4m3fn"):
        save_file({"logits": torch.tensor(logits).to(getattr(torch, name))}, path)
        said = [
            subprocess.run([sys.executable, "-c", _READ, path, how], capture_output=True, text=True).stdout.strip()
            for how in ("without", "with")
        ]
        found.append(f"{name}: {said[0]}, after `import ml_dtypes` {said[1]}")
    return "NumPy front end: " + "; ".join(found)


def carriers() -> None:
    print("\n| carrier | float64 logits (64, 10), written and read |\n|---|---|")
    logits = STUDENT.numpy()
    for library, carry in {"datasets": by_datasets, "pyarrow": by_pyarrow, "safetensors": by_safetensors}.items():
        try:
            name = f"{library} {version(library)}"
        except PackageNotFoundError:
            print(f"| {library} | not installed |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {name} | {carry(logits, Path(folder))} |")


if __name__ == "__main__":
    losses()
    carriers()
