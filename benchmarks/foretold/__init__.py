"""Does `assess` predict what students become? Many candidate teachers, every one with students of its own.

An instrument of ours, for the scripts beside this folder; the library neither imports nor ships it.
"""
