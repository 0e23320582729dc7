"""Deprecated: `preceptor.study.teachers`."""

from preceptor._renamed import Finder, renamed

__getattr__: Finder = renamed(__name__, "preceptor.study.teachers")
