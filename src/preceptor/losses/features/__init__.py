"""Losses that look into the models: features by the names of modules, one family a file.

A loss is its file, and one line here. KDSVD is none of them: its two released codes compute different losses.
"""

from preceptor.losses.features.ab import AB as AB
from preceptor.losses.features.at import AT as AT
from preceptor.losses.features.base import FeatureLoss as FeatureLoss
from preceptor.losses.features.cc import CC as CC
from preceptor.losses.features.crd import CRD as CRD
from preceptor.losses.features.cwd import CWD as CWD
from preceptor.losses.features.fitnet import FitNet as FitNet
from preceptor.losses.features.fsp import FSP as FSP
from preceptor.losses.features.ft import FT as FT
from preceptor.losses.features.hsakd import HSAKD as HSAKD
from preceptor.losses.features.itrd import ITRD as ITRD
from preceptor.losses.features.mgd import MGD as MGD
from preceptor.losses.features.mlkd import MLKD as MLKD
from preceptor.losses.features.nst import NST as NST
from preceptor.losses.features.ofa import OFA as OFA
from preceptor.losses.features.ofd import OFD as OFD
from preceptor.losses.features.pkd import PKD as PKD
from preceptor.losses.features.pkt import PKT as PKT
from preceptor.losses.features.reviewkd import ReviewKD as ReviewKD
from preceptor.losses.features.rkd import RKD as RKD
from preceptor.losses.features.simkd import SimKD as SimKD
from preceptor.losses.features.sp import SP as SP
from preceptor.losses.features.srrl import SRRL as SRRL
from preceptor.losses.features.sskd import SSKD as SSKD
from preceptor.losses.features.vid import VID as VID
from preceptor.losses.features.wcord import WCoRD as WCoRD
