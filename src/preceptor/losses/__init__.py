"""What a student minimises: pure functions of tensors, one family a file.

Every loss takes the student's logits first and the teacher's second, the classes in the last dimension.
"""

from preceptor.losses.dist import dist
from preceptor.losses.divergences import jsd, reverse_kl, skew_kl, tvd
from preceptor.losses.dkd import dkd
from preceptor.losses.kd import kd, standardized_kd
from preceptor.losses.ptloss import ptloss
from preceptor.losses.ttm import ttm, wttm

__all__ = [
    "dist",
    "dkd",
    "jsd",
    "kd",
    "ptloss",
    "reverse_kl",
    "skew_kl",
    "standardized_kd",
    "ttm",
    "tvd",
    "wttm",
]
