"""Deprecated: `preceptor.data.tables`."""

from preceptor._renamed import Finder, renamed

__getattr__: Finder = renamed(__name__, "preceptor.data.tables")
