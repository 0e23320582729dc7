"""What a student minimises: pure functions of tensors, one family a file.

Every loss takes the student's logits first and the teacher's second, the classes in the last dimension.
"""

from preceptor.losses.ctkd import CTKD
from preceptor.losses.dist import dist
from preceptor.losses.divergences import jsd, reverse_kl, skew_kl, tvd
from preceptor.losses.dkd import dkd
from preceptor.losses.kd import kd, standardized_kd
from preceptor.losses.mlkd import mlkd
from preceptor.losses.nkd import nkd
from preceptor.losses.ptloss import ptloss
from preceptor.losses.ttm import ttm, wttm
from preceptor.losses.wsld import wsld

__all__ = [
    "CTKD",
    "dist",
    "dkd",
    "jsd",
    "kd",
    "mlkd",
    "nkd",
    "ptloss",
    "reverse_kl",
    "skew_kl",
    "standardized_kd",
    "ttm",
    "tvd",
    "wsld",
    "wttm",
]
