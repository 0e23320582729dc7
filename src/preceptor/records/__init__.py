"""A teacher's outputs on disk, by sample and view: written once, read in any order, at any temperature later."""

from preceptor.records.forms import GRID, Dense, Hidden, Sampled, TopK
from preceptor.records.manifest import Identity, Manifest, difference
from preceptor.records.parquet import from_parquet, to_parquet
from preceptor.records.reader import Record
from preceptor.records.scores import scores
from preceptor.records.targets import DenseTargets, SampledTargets, Scalars, Targets, TopKTargets
from preceptor.records.teacher import RecordTeacher
from preceptor.records.token_scores import token_scores
from preceptor.records.token_teacher import TokenRecordTeacher
from preceptor.records.tokens import token_ids
from preceptor.records.writer import RecordWriter

__all__ = [
    "GRID",
    "Dense",
    "DenseTargets",
    "Hidden",
    "Identity",
    "Manifest",
    "Record",
    "RecordTeacher",
    "RecordWriter",
    "Sampled",
    "SampledTargets",
    "Scalars",
    "Targets",
    "TokenRecordTeacher",
    "TopK",
    "TopKTargets",
    "difference",
    "from_parquet",
    "scores",
    "to_parquet",
    "token_ids",
    "token_scores",
]
