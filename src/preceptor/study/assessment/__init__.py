"""Deprecated: `preceptor.study.teachers`."""

from preceptor._renamed import Lookup, renamed

__getattr__: Lookup = renamed(__name__, "preceptor.study.teachers")
