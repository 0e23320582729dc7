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
from preceptor.assess.comparison import Comparison, Difference, TeacherScores, compare
from preceptor.assess.distance import rater_distance, rater_distance_difference, squared_distance
from preceptor.assess.forecasts import Forecast, forecast
from preceptor.assess.intervals import (
    Estimate,
    bootstrap_interval,
    bootstrap_means,
    mean_interval,
    simultaneous_differences,
)
from preceptor.assess.optimum import optimum
from preceptor.assess.proxy import ProxyTeacher, proxy_teacher
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

__all__ = [
    "BrierParts",
    "Comparison",
    "Difference",
    "Estimate",
    "Forecast",
    "ProxyTeacher",
    "Reliability",
    "TeacherScores",
    "accuracy",
    "bootstrap_interval",
    "bootstrap_means",
    "brier",
    "brier_decomposition",
    "calibration_error",
    "classwise_calibration_error",
    "compare",
    "debiased_calibration_error",
    "entropy",
    "forecast",
    "mean_interval",
    "nll",
    "optimum",
    "power_sum",
    "proxy_teacher",
    "rater_distance",
    "rater_distance_difference",
    "reliability",
    "renyi_entropy",
    "sharpness",
    "simultaneous_differences",
    "squared_distance",
    "top_k_mass",
]
