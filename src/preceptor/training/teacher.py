"""Deprecated: `preceptor.tasks.teacher`."""

from preceptor._renamed import renamed

__getattr__ = renamed(__name__, "preceptor.tasks.teacher")
