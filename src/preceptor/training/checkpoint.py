"""Deprecated: `preceptor.runs.checkpoint`."""

from preceptor._renamed import renamed

__getattr__ = renamed(__name__, "preceptor.runs.checkpoint")
