"""What a teacher minimises, and how a run's checkpoints become a teacher."""

from preceptor.teaching.averaging import average_weights
from preceptor.teaching.classification import confidence_penalty, cross_entropy, label_smoothing
from preceptor.teaching.ensemble import average_probabilities
from preceptor.teaching.mse import clip_distribution, mse
from preceptor.teaching.soteacher import Consistency, Lipschitz, SoTeacher
from preceptor.teaching.temperature import fit_temperature
from preceptor.teaching.tolerant import check_tolerance, tolerant, top_score_difference

__all__ = [
    "Consistency",
    "Lipschitz",
    "SoTeacher",
    "average_probabilities",
    "average_weights",
    "check_tolerance",
    "clip_distribution",
    "confidence_penalty",
    "cross_entropy",
    "fit_temperature",
    "label_smoothing",
    "mse",
    "tolerant",
    "top_score_difference",
]
