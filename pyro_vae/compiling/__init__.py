"""The same numbers, sooner: recorded graphs, their rewrites, what weights alone decide, torch's backends.

recording.py    a program's tensor operations, run once and recorded
rewrites.py     cheaper forms of recorded operations
memory.py       values that depend on weights alone, computed once for many runs
backends.py     devices, and torch's process-wide settings for the time of a `with` block
"""
