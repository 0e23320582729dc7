"""A teacher's outputs on disk, by sample and view: written once, read in any order, at any temperature later."""

from preceptor.records.forms import GRID, Dense, Sampled, TopK
from preceptor.records.manifest import Identity, Manifest, difference
from preceptor.records.parquet import from_parquet, to_parquet
from preceptor.records.reader import Record
from preceptor.records.scores import scores
from preceptor.records.targets import DenseTargets, SampledTargets, Scalars, Targets, TopKTargets
from preceptor.records.teacher import RecordTeacher
from preceptor.records.writer import RecordWriter

__all__ = [
    "GRID",
    "Dense",
    "DenseTargets",
    "Identity",
    "Manifest",
    "Record",
    "RecordTeacher",
    "RecordWriter",
    "Sampled",
    "SampledTargets",
    "Scalars",
    "Targets",
    "TopK",
    "TopKTargets",
    "difference",
    "from_parquet",
    "scores",
    "to_parquet",
]
