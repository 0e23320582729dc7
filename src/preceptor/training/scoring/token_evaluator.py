"""Scores of a language model on one part of its data, a value for each token, without ever holding all its outputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.data.dataset import Indexed
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.inputs import batch_to, call
from preceptor.outputs import logits_of, read_logits
from preceptor.runs.token_scores import TokenScores
from preceptor.tasks.tokens import of_tokens
from preceptor.training.data.cohort import Cohort
from preceptor.training.engine.device import Accelerator
from preceptor.training.scoring.evaluate import refuse_not_finite
from preceptor.training.scoring.selection import Selection

TEMPERATURES = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
"""At which held-out NLLs are kept, to choose a temperature from."""
SELECTABLE = ("nll", "brier", "accuracy")
_ROWS, _LOGITS = 16, 2**26  # rows a forward pass, at most, and about how many logits it makes
_NUMBERS = 2**22  # logits that are scored at once, in float64


class TokenEvaluator:
    """What `Evaluator` is for classifiers: the scores of a run's model on one part, as the loop wants them.

    Args:
        cohort: of one model, whose data are rows of tokens.
        part: ``heldout`` or ``test``.
        accelerator: device and precision.
        distribution: how logits are read (`read_logits`).
        selection: what the best epoch is chosen by: one of the scores that there are.

    Raises:
        InputError: another score.
    """

    def __init__(
        self,
        cohort: Cohort,
        part: str,
        accelerator: Accelerator,
        *,
        distribution: str = "softmax",
        selection: Selection | None = None,
    ) -> None:
        if selection is not None and (selection.function is not None or selection.name not in SELECTABLE):
            raise InputError(
                f"training.select is '{selection.name}', which is no score of tokens; give nll, brier or accuracy"
            )
        self.accelerator: Accelerator = accelerator
        self.distribution: str = distribution
        self.dataset: Indexed
        self.indices: Tensor
        self.dataset, self.indices = cohort.scored(part)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Means over tokens: accuracy, brier, nll and bits_per_byte."""
        found = self.scored(model, ()).means()
        return {name: found[name] for name in ("accuracy", "brier", "nll", "bits_per_byte")}

    def scored(self, model: nn.Module, temperatures: tuple[float, ...] = TEMPERATURES) -> TokenScores:
        """The scores of every token that counts, of a model in eval mode.

        Args:
            temperatures: at which the NLL is given, too.
        """
        model.eval()

        def speaker(batch: Mapping[str, Any]) -> Any:
            with self.accelerator.autocast():
                return call(model, batch["input"])

        return token_scores(
            speaker,
            self.dataset,
            self.indices,
            self.accelerator.device,
            distribution=self.distribution,
            temperatures=temperatures,
        )


@torch.no_grad()
def token_scores(
    speaker: Any,
    dataset: Indexed,
    indices: Tensor,
    device: torch.device | str,
    *,
    distribution: str = "softmax",
    temperatures: tuple[float, ...] = (),
) -> TokenScores:
    """What anybody's answers to some rows of tokens are worth.

    Args:
        speaker: from a batch on `device` to logits or log-probabilities (B, L, C), or (n, C) for those that count.
        dataset: of a `TokenDataset`, what `indices` point into.
        indices: rows, int64 (N,).
        distribution: how logits are read.
        temperatures: at which the NLL is given, too.

    Raises:
        NotFinite: naming the row.
    """
    rows = dataset.dataset
    assert isinstance(rows, TokenDataset)
    found: dict[str, list[Tensor]] = {}
    size = max(1, min(_ROWS, _LOGITS // (rows.ids.shape[1] * (dataset.num_classes or 1))))
    for index in indices.split(size):
        batch = batch_to(dataset[index.tolist()], device)
        mask: Tensor = batch["mask"]
        said = read_logits(of_tokens(logits_of(speaker(batch)), mask, "the model"), distribution)
        refuse_not_finite(said, batch["index"][:, None].expand_as(mask)[mask])
        known = {"documents": rows.documents[index], "bytes": rows.byte_counts[index], "labels": rows.labels[index]}
        counted = mask.cpu()
        for name, values in known.items():
            found.setdefault(name, []).append(values[counted].int())
        for name, values in _scores(said, batch["label"][mask], temperatures).items():
            found.setdefault(name, []).append(values.float().cpu())
    return TokenScores(**{name: torch.cat(parts) for name, parts in found.items()}, temperatures=temperatures)


def _scores(logits: Tensor, labels: Tensor, temperatures: tuple[float, ...]) -> dict[str, Tensor]:
    """Of logits (n, C) and labels (n,), some at a time, as they are wanted in float64."""
    size = max(1, _NUMBERS // logits.shape[-1])
    parts = [_few(*each, temperatures) for each in zip(logits.split(size), labels.split(size), strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _few(logits: Tensor, labels: Tensor, temperatures: tuple[float, ...]) -> dict[str, Tensor]:
    wide = logits.double()
    log_probs = wide.log_softmax(-1)
    probs = log_probs.exp()
    at_label = log_probs.gather(-1, labels[:, None]).squeeze(-1)
    label_logit = wide.gather(-1, labels[:, None]).squeeze(-1)
    softened = [(wide / t).logsumexp(-1) - label_logit / t for t in temperatures]
    return {
        "nll": -at_label,
        "brier": 1 - 2 * at_label.exp() + probs.square().sum(-1),
        "entropy": -torch.where(probs > 0, probs * log_probs, 0.0).sum(-1),
        "confidence": probs.amax(-1),
        "correct": (logits.argmax(-1) == labels).double(),
        "nll_at": torch.stack(softened, -1) if softened else wide.new_zeros(len(wide), 0),
    }
