"""Deprecated: `preceptor.tasks.teacher`."""

from preceptor._renamed import Finder, renamed

__getattr__: Finder = renamed(__name__, "preceptor.tasks.teacher")
