"""What a teacher minimises."""

from preceptor._renamed import Finder, renamed
from preceptor.teaching.classification import confidence_penalty, cross_entropy, label_smoothing
from preceptor.teaching.consistency import Consistency
from preceptor.teaching.imbalance import class_weights, focal
from preceptor.teaching.lipschitz import Lipschitz
from preceptor.teaching.mse import mse
from preceptor.teaching.sftn import SFTN
from preceptor.teaching.soteacher import SoTeacher
from preceptor.teaching.tolerant import check_tolerance, tolerant, top_score_difference

__all__ = [
    "SFTN",
    "Consistency",
    "Lipschitz",
    "SoTeacher",
    "check_tolerance",
    "class_weights",
    "confidence_penalty",
    "cross_entropy",
    "focal",
    "label_smoothing",
    "mse",
    "tolerant",
    "top_score_difference",
]

__getattr__: Finder = renamed(
    __name__,
    {
        "average_probabilities": "preceptor.outputs",
        "average_weights": "preceptor.training.optim.averaging",
        "clip_distribution": "preceptor.outputs",
        "fit_temperature": "preceptor.outputs",
    },
)
