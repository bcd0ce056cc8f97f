"""Checks of arguments, with messages in terms of Python or of the command line.

    values.py      checks of single values
    checked.py     `@checked`, above public functions
    calling.py     `Called`, for constructors
    remedies.py    what to do, in terms of Python or of the command line; suggestions for misspelt names

Nothing is imported here: the command line answers mistakes before torch is imported.
"""
