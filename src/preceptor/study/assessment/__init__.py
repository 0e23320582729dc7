"""Deprecated: `preceptor.study.teachers`."""

from preceptor._renamed import renamed

__getattr__ = renamed(__name__, "preceptor.study.teachers")
