"""What callers pass is checked at the door, and answered in their own words.

    values.py      checks of single values
    checked.py     `@checked`, above public functions
    calling.py     `Called`, for constructors
    remedies.py    what to do, in the words of Python or of the command line; names that were meant

Nothing is imported here: the command line answers mistakes before torch is imported.
"""
