"""Deprecated: `preceptor.tasks.stack`."""

from preceptor._renamed import renamed

__getattr__ = renamed(__name__, "preceptor.tasks.stack")
