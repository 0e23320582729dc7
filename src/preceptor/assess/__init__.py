"""What a teacher is worth to a student, from held-out labels alone: scores, comparison, distance to truth.

`compare` is the verb; everything else is what it is made of.
"""

from preceptor.assess.calibration import (
    BrierParts,
    Reliability,
    brier_decomposition,
    calibration_error,
    classwise_calibration_error,
    debiased_calibration_error,
    reliability,
)
from preceptor.assess.choice import Choice, Step, choose, mixture_weights
from preceptor.assess.comparison import Comparison, Difference, SeenScore, TeacherScores
from preceptor.assess.confusion import balanced_accuracy, macro_f1
from preceptor.assess.distance import (
    rater_distance,
    rater_distance_difference,
    rater_frequencies,
    squared_distance,
)
from preceptor.assess.evidence import Evidence
from preceptor.assess.families import FAMILIES
from preceptor.assess.forecasts import Forecast, forecast
from preceptor.assess.intervals import (
    Estimate,
    bootstrap_interval,
    bootstrap_means,
    mean_interval,
    proportion_interval,
    simultaneous_differences,
)
from preceptor.assess.optimum import OPTIMA, Optimum, assessed_as, optimum
from preceptor.assess.question import Question
from preceptor.assess.ranking import compare
from preceptor.assess.scores import (
    accuracy,
    brier,
    entropy,
    nll,
    power_sum,
    renyi_entropy,
    sharpness,
    top_k_mass,
)
from preceptor.assess.search import Search, crossfitted, recalibrated, search_transform
from preceptor.assess.token_scores import TokenScores
from preceptor.assess.tokens import TokenComparison, compare_tokens
from preceptor.outputs import ProxyTeacher, proxy_teacher, transformed

__all__ = [
    "FAMILIES",
    "OPTIMA",
    "BrierParts",
    "Choice",
    "Comparison",
    "Difference",
    "Estimate",
    "Evidence",
    "Forecast",
    "Optimum",
    "ProxyTeacher",
    "Question",
    "Reliability",
    "Search",
    "SeenScore",
    "Step",
    "TeacherScores",
    "TokenComparison",
    "TokenScores",
    "accuracy",
    "assessed_as",
    "balanced_accuracy",
    "bootstrap_interval",
    "bootstrap_means",
    "brier",
    "brier_decomposition",
    "calibration_error",
    "choose",
    "classwise_calibration_error",
    "compare",
    "compare_tokens",
    "crossfitted",
    "debiased_calibration_error",
    "entropy",
    "forecast",
    "macro_f1",
    "mean_interval",
    "mixture_weights",
    "nll",
    "optimum",
    "power_sum",
    "proportion_interval",
    "proxy_teacher",
    "rater_distance",
    "rater_distance_difference",
    "rater_frequencies",
    "recalibrated",
    "reliability",
    "renyi_entropy",
    "search_transform",
    "sharpness",
    "simultaneous_differences",
    "squared_distance",
    "top_k_mass",
    "transformed",
]
