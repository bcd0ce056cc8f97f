"""Mutated files of a run directory, and of `--config`: each ends well or in one of our errors, quickly.

`python -m tests.fuzz KIND ... --count 2000 --seed 0` mutates; `seeds/KIND.jsonl` holds files that once ended badly.
"""
