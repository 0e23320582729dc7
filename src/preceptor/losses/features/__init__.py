"""Losses that look into the models: features by the names of modules, one family a file.

A loss is its file, and one line here. KDSVD is none of them: its two released codes compute different losses.
"""

from preceptor.losses.features.at import AT as AT
from preceptor.losses.features.base import FeatureLoss as FeatureLoss
from preceptor.losses.features.crd import CRD as CRD
from preceptor.losses.features.rkd import RKD as RKD
from preceptor.losses.features.sp import SP as SP
