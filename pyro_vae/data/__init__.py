"""What is trained on. `load_data` reads a named set, a file or a folder, `as_dataset` takes what the caller has; both
give a `Dataset`. `store_data` passes once over what comes piece by piece, into a folder that `load_data` reads.

Its files:

    loading.py            load_data
    given.py              as_dataset: arrays, tables, and what comes piece by piece
    dataset.py            Dataset: access to the splits, whole, in parts, or a batch at a time
    splits.py             train, valid and test as they are stored, with labels and inputs
    storage.py            one split in memory or in a file, read part by part
    scaling.py            what stored numbers are divided by
    annotations.py        labels and contexts of a source
    preparation.py        scaling, binarisation, dequantisation: a class each
    checks.py             what a Dataset refuses
    tables.py             Table: the columns of a table; their fields as numbers, and back
    kinds.py              the kinds of its columns, guessed or as the user says
    cells.py              its fields as they came
    gaps.py               elements that were not observed: the mask, and what stands for them in files
    inputs.py             inputs made of labels or of elements: a context c, or the labels y of a few
    streams/              loaders, data sets of other libraries: block by block
    storing/              store_data: one pass over them into files
    places.py             where the package keeps files of its own
    sources/              named sets and file formats; to add a format, a file there and a line in its `__init__`
    linear_gaussian.py    a process whose log p(x) is known
    support.py            which likelihoods fit which values
    allowed.py            whether a likelihood gives probability to all values of a data set
    fingerprint.py        a short name for some data
"""

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.given import as_dataset
from pyro_vae.data.inputs import Context, conditioned_on_elements, conditioned_on_labels, quadrants, semi_supervised
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.loading import load_data
from pyro_vae.data.preparation import Binarization
from pyro_vae.data.storing.plan import StoragePlan
from pyro_vae.data.storing.stores import storage_plan, store_data
from pyro_vae.data.tables import Table

__all__ = [
    "Binarization",
    "Context",
    "Dataset",
    "LinearGaussian",
    "StoragePlan",
    "Table",
    "as_dataset",
    "conditioned_on_elements",
    "conditioned_on_labels",
    "load_data",
    "quadrants",
    "semi_supervised",
    "storage_plan",
    "store_data",
]
