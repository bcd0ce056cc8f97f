"""The caller's process is left as it was: every switch, handler and random generator.

    isolation.py      `@isolated`, above public functions that run programs
    turns.py          one call at a time
    switches.py       process-wide switches of Pyro and torch
    seeding.py        `seeded`: draws as a function of a seed and of what is drawn
    interrupts.py     SIGINT and SIGTERM collected while a training runs
    torch_cache.py    the folder in which torch keeps what it compiles
    torch_internals.py, pyro_internals.py    the seams to what torch and Pyro keep private

Nothing is imported here, so that errors are printed before torch is imported.
"""
