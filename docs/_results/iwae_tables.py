"""Burda et al. 2016, Tables 1 to 3."""

from _results.evaluated import text

__all__ = ["text"]
