"""What is done to an output after the model: read, softened, mixed, transformed."""

from preceptor.outputs.distribution import clip_distribution, read_logits
from preceptor.outputs.logits import logits_of
from preceptor.outputs.mixture import average_probabilities
from preceptor.outputs.proxy import ProxyTeacher, proxy_teacher
from preceptor.outputs.temperature import fit_temperature
from preceptor.outputs.transform import transformed

__all__ = [
    "ProxyTeacher",
    "average_probabilities",
    "clip_distribution",
    "fit_temperature",
    "logits_of",
    "proxy_teacher",
    "read_logits",
    "transformed",
]
