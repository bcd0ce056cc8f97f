"""What is trained on. `load_data` reads a named set or a file, `as_dataset` takes an array; both give a `Dataset`.

Its files:

    loading.py            load_data, as_dataset
    dataset.py            Dataset: access to the splits, whole, in parts, or a batch at a time
    splits.py             train, valid and test as they are stored, with labels and inputs
    storage.py            one split in memory or in a file, read part by part
    preparation.py        scaling, binarisation, dequantisation: a class each
    checks.py             what a Dataset refuses
    tables.py             Table: the columns of a table; their fields as numbers, and back
    kinds.py              the kinds of its columns, guessed or as the user says
    cells.py              its fields as they came
    gaps.py               elements that were not observed: the mask, and what stands for them in files
    inputs.py             inputs made of labels or of elements: a context c, or the labels y of a few
    sources/              named sets and file formats; to add a format, a file there and a line in its `__init__`
    linear_gaussian.py    a process whose log p(x) is known
    support.py            which likelihoods fit which values
    fingerprint.py        a short name for some data
"""

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.inputs import Context, conditioned_on_elements, conditioned_on_labels, quadrants, semi_supervised
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.loading import as_dataset, load_data
from pyro_vae.data.preparation import Binarization
from pyro_vae.data.tables import Table

__all__ = [
    "Binarization",
    "Context",
    "Dataset",
    "LinearGaussian",
    "Table",
    "as_dataset",
    "conditioned_on_elements",
    "conditioned_on_labels",
    "load_data",
    "quadrants",
    "semi_supervised",
]
