"""Tomczak & Welling 2018, Table 1, static MNIST, with other priors and guides beside."""

from _results.evaluated import text

__all__ = ["text"]
