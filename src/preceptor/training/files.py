"""Deprecated: `preceptor.runs.files`."""

from preceptor._renamed import renamed

__getattr__ = renamed(__name__, "preceptor.runs.files")
