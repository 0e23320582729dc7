"""Deprecated: `preceptor.runs.checkpoint`."""

from preceptor._renamed import Finder, renamed

__getattr__: Finder = renamed(__name__, "preceptor.runs.checkpoint")
