"""Deprecated: `preceptor.tasks.stack`."""

from preceptor._renamed import Lookup, renamed

__getattr__: Lookup = renamed(__name__, "preceptor.tasks.stack")
