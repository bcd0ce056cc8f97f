"""The same numbers, faster: recorded graphs, their rewrites, cached values, torch's backends.

A program is run once, and the tensor operations that it made are recorded as a graph, which inductor compiles. From
then on only the graph runs: no Pyro, no autograd. Its cache key has all that it depends on (shapes, the storage of the
parameters); parameters, data and cached tensors are its inputs. `inference/pairs.py` records the two programs of a
Pyro pair, `training/steps.py` a loss with its gradients, `evidence/annealing_path.py` a step of Markov chains.

    recording.py    a program's tensor operations, run once and recorded
    listening.py    a name for the tensor operations of a program
    kept_code.py    compiled code on disk, under the name of its operations
    rewrites.py     cheaper forms of recorded operations
    memory.py       values that depend on weights alone, computed once for many runs
    caching.py      recorded graphs kept for later calls, each under a cache key
    backends.py     devices, and torch's process-wide settings inside a `with` block
"""
