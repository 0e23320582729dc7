"""Deprecated: `preceptor.runs.files`."""

from preceptor._renamed import Lookup, renamed

__getattr__: Lookup = renamed(__name__, "preceptor.runs.files")
