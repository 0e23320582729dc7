"""Out again: a run's model in the formats of others, and what it says to new inputs."""

from preceptor.serving.exporting import Export, export
from preceptor.serving.predicting import Answers, predict

__all__ = ["Answers", "Export", "export", "predict"]
