"""Deprecated: `preceptor.runs.files`."""

from preceptor._renamed import Finder, renamed

__getattr__: Finder = renamed(__name__, "preceptor.runs.files")
