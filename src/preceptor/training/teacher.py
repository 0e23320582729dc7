"""Deprecated: `preceptor.tasks.teacher`."""

from preceptor._renamed import Lookup, renamed

__getattr__: Lookup = renamed(__name__, "preceptor.tasks.teacher")
