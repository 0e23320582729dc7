"""Who scores the models of a job: one score a sample of a classifier, one a token of a language model."""

from typing import TypeAlias

from preceptor.training.job import Job
from preceptor.training.scoring.evaluate import Evaluator
from preceptor.training.scoring.token_evaluator import TokenEvaluator

AnyEvaluator: TypeAlias = Evaluator | TokenEvaluator


def evaluator_of(job: Job, part: str) -> AnyEvaluator:
    """The scores of a job's models on one part of their data, ``heldout`` or ``test``."""
    kind = TokenEvaluator if job.cohort.samples[0].are_tokens else Evaluator
    return kind(job.cohort, part, job.accelerator, distribution=job.distribution, selection=job.selection)
