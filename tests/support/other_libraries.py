"""Stand-ins for data sets of Hugging Face and for AnnData: what the package uses of them, and no more."""

import numpy as np
import pandas as pd


def feature(kind):
    """A feature whose class has the name of one of that library."""
    return type(kind, (), {})()


def array_of(rows):
    """Rows as an array; of different shapes as objects, as that library does it."""
    if len({np.shape(row) for row in rows}) == 1:
        return np.asarray(rows)
    found = np.empty(len(rows), object)
    found[:] = rows
    return found


class HuggingFace:
    """One split of a data set: columns by name.

    Args:
        columns: the values of each, a list or an array.
        features: the kind of each: Image, ClassLabel, Value, Sequence, ...
        kind: the type of the format.
    """

    def __init__(self, columns, features, kind=None):
        self.columns, self.kind = columns, kind
        self.features = {name: feature(of) for name, of in features.items()}

    @property
    def column_names(self):
        return list(self.features)

    @property
    def format(self):
        return {"type": self.kind}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows):
        found = {name: self.columns[name][rows] for name in self.column_names}
        return {name: array_of(x) for name, x in found.items()} if self.kind == "numpy" else found

    def select_columns(self, names):
        other = HuggingFace(self.columns, {}, self.kind)
        other.features = {name: self.features[name] for name in names}
        return other

    def with_format(self, kind):
        other = self.select_columns(self.column_names)
        other.kind = kind
        return other


class AnnData:
    """Cells and genes.

    Args:
        x: the matrix, dense or sparse.
        obs: columns of annotations of the cells.
        layers: other matrices.
        obsm: other arrays of the cells.
    """

    def __init__(self, x, obs=None, layers=None, obsm=None):
        self.X, self.layers, self.obsm = x, layers or {}, obsm or {}
        self.obs = pd.DataFrame(obs or {}, index=range(x.shape[0]))
        self.n_obs = x.shape[0]
