"""Data sets of Hugging Face and AnnData objects, known by their attributes: with stand-ins, and the libraries' own."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from pyro_vae import VAE, fit, load_data
from pyro_vae.data import as_dataset, store_data
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import NegativeBinomial
from tests.support import other_libraries

X = np.random.default_rng(0).poisson(2.0, (300, 6)).astype(np.float32)
GROUPS = pd.Categorical.from_codes(np.arange(300) % 3, ["T", "B", "NK"])
IMAGES = np.random.default_rng(1).integers(0, 256, (12, 5, 4, 3), np.uint8)


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


def test_neither_library_is_imported():
    code = "import sys, pyro_vae.data.loading; print({'datasets', 'anndata', 'pyarrow', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# ---- AnnData


@pytest.fixture(params=["stand-in", "real"])
def annotated(request):
    """A function that makes an AnnData."""
    if request.param == "stand-in":
        return other_libraries.AnnData
    library = pytest.importorskip("anndata")

    def make(x, obs=None, layers=None, obsm=None):
        index = [str(i) for i in range(x.shape[0])]
        frame = pd.DataFrame(
            {name: pd.Series(column, index=index) for name, column in (obs or {}).items()}, index=index
        )
        return library.AnnData(x, obs=frame, layers=layers, obsm=obsm)

    return make


MATRICES = {"dense": np.asarray, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}


@pytest.mark.parametrize("kind", MATRICES)
def test_cells_are_data(annotated, kind):
    data = as_dataset(annotated(MATRICES[kind](X)))
    assert torch.equal(data.split("train"), torch.tensor(X)) and data.name == "AnnData" and not data.labels


def test_labels_layers_and_contexts(annotated, tmp_path):
    adata = annotated(
        scipy.sparse.csr_matrix(X),
        obs={"group": GROUPS, "depth": X.sum(1), "number": np.arange(300) % 2},
        layers={"counts": X.astype(np.int32)},
        obsm={"c": X[:, :2]},
    )
    fields = {"x": "counts", "labels": "group", "context": "group"}
    data = load_data(store_data(adata, tmp_path / "x", fields=fields, progress=False), context="array", divide_by=1)
    assert torch.equal(data.split("train"), torch.tensor(X)) and data.train.dtype == np.int32
    assert data.labels["train"].tolist() == (np.arange(300) % 3).tolist()
    assert torch.equal(data.inputs["c"]["train"], torch.eye(3, dtype=torch.uint8)[data.labels["train"]])
    for key, expected in (("depth", X.sum(1)[:, None]), ("c", X[:, :2])):
        other = as_dataset(adata, fields={"x": "X", "context": key})
        assert np.array_equal(other.inputs["c"]["train"].numpy(), expected)
    assert as_dataset(adata, fields={"x": "X", "labels": "number"}).labels["train"].tolist() == [0, 1] * 150


def test_training_on_cells(annotated):
    adata = annotated(scipy.sparse.csr_matrix(X))
    assert fit(VAE((6,), 1, likelihood=NegativeBinomial), adata, epochs=1, progress=False).best_epoch == 1


def test_cells_that_are_refused(annotated):
    group = pd.Categorical.from_codes(np.where(np.arange(300) == 7, -1, 0), ["T"])
    obs = {"group": group, "name": [f"cell {i}" for i in range(300)], "depth": X.sum(1)}
    adata = annotated(scipy.sparse.csr_matrix(X), obs=obs)
    for fields, parts in (
        ({"x": "counts"}, ("the AnnData has no 'counts' for x: expected one of 'X'",)),
        ({"x": "X", "labels": "type"}, ("the AnnData has no 'type' for the labels: it has 'group', 'name', 'depth'",)),
        ({"x": "X", "labels": "group"}, ("train data[7] has no 'group' in obs, its labels: leave such cells out",)),
        ({"x": "X", "labels": "name"}, ("obs['name'] has texts, not classes", ".astype('category')")),
        ({"x": "X", "labels": "depth", "context": "none"}, ("the AnnData has no 'none' for the context",)),
    ):
        with refused(DataError, *parts):
            as_dataset(adata, fields=fields)
    with refused(UsageError, "an AnnData has no mask: pass missing="):
        as_dataset(adata, fields={"x": "X", "mask": "depth"})
    bad = X.copy()
    bad[250, 3] = np.nan
    with refused(DataError, "x of train data[250] has the value nan"):
        as_dataset(annotated(scipy.sparse.csr_matrix(bad)))
    with refused(DataError, "integers (int64) have no known scale: pass divide_by=1 for counts") as found:
        as_dataset(annotated(X.astype(np.int64)))
    assert "NegativeBinomial" in str(found.value)


def test_cells_in_a_file(tmp_path):
    library = pytest.importorskip("anndata")
    for name, kind in MATRICES.items():
        library.AnnData(kind(X)).write_h5ad(tmp_path / f"{name}.h5ad")
        backed = library.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        assert torch.equal(as_dataset(backed).split("train"), torch.tensor(X))
        assert torch.equal(as_dataset(backed[50:90]).split("train"), torch.tensor(X[50:90]))
    with refused(DataError, "an HDF5 file", "an .h5ad by anndata.read_h5ad"):
        load_data(tmp_path / "dense.h5ad")


# ---- Hugging Face


@pytest.fixture(params=["stand-in", "real"])
def hugging_face(request):
    """A function that makes a data set of columns and the kinds of their features."""
    if request.param == "stand-in":
        return other_libraries.HuggingFace
    library = pytest.importorskip("datasets")
    values = {int: "int64", float: "float64", str: "string"}

    def make(columns, features):
        def of(name, kind):
            if kind == "Value":
                return library.Value(values[type(columns[name][0])])
            if kind == "Sequence":
                return library.Sequence(library.Value("float32"))
            return library.ClassLabel(names=["a", "b", "c"]) if kind == "ClassLabel" else library.Image()

        plain = {
            name: [list(v) if isinstance(v, np.ndarray) else v for v in column] for name, column in columns.items()
        }
        made = library.Features({name: of(name, kind) for name, kind in features.items()})
        return library.Dataset.from_dict(plain, features=made)

    return make


def labels_of(count):
    return [i % 3 for i in range(count)]


@pytest.mark.parametrize("colour", [False, True])
def test_images_and_their_classes(hugging_face, colour):
    arrays = IMAGES if colour else IMAGES[..., 0]
    pictures = [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
    source = hugging_face({"image": pictures, "label": labels_of(12)}, {"image": "Image", "label": "ClassLabel"})
    data = as_dataset({"train": source, "test": source})
    assert np.array_equal(data.train.numpy(), arrays.transpose(0, 3, 1, 2) if colour else arrays)
    assert data.labels["test"].tolist() == labels_of(12)


def test_columns_of_arrays(hugging_face):
    source = hugging_face({"v": list(X), "text": ["a"] * 300}, {"v": "Sequence", "text": "Value"})
    data = as_dataset(source)
    assert torch.equal(data.split("train"), torch.tensor(X)) and not data.labels


def test_columns_that_are_refused(hugging_face):
    table = hugging_face({"a": [1, 2], "b": ["x", "y"]}, {"a": "Value", "b": "Value"})
    with refused(UsageError, "the data set is a table, with the columns 'a', 'b': pass it as one, by to_pandas()"):
        as_dataset(table)
    two = hugging_face({"a": list(X[:3]), "b": list(X[:3])}, {"a": "Sequence", "b": "Sequence"})
    with refused(UsageError, "the data set has the columns 'a', 'b': say which by fields="):
        as_dataset(two)
    assert torch.equal(as_dataset(two, fields={"x": "b"}).split("train"), torch.tensor(X[:3]))
    with refused(DataError, "the data set has no column 'c', its x: it has 'a', 'b'"):
        as_dataset(two, fields={"x": "c"})
    ragged = hugging_face({"v": [X[0], X[1], X[2][:4]]}, {"v": "Sequence"})
    with pytest.raises(DataError, match="train data"):
        as_dataset(ragged)
    sizes = [Image.fromarray(IMAGES[0]), Image.fromarray(IMAGES[0]), Image.fromarray(IMAGES[0][:3])]
    with refused(DataError, "datum 1 has shape [3, 3, 4], and those before [3, 5, 4]: make all of one shape"):
        as_dataset(hugging_face({"image": sizes}, {"image": "Image"}))


def test_a_dictionary_of_splits_and_a_stream():
    library = pytest.importorskip("datasets")
    one = library.Dataset.from_dict({"v": [list(map(float, x)) for x in X[:20]], "label": labels_of(20)})
    data = as_dataset(library.DatasetDict({"train": one, "validation": one}), fields={"x": "v", "labels": "label"})
    assert data.size("valid") == 20 and data.labels["valid"].tolist() == labels_of(20)
    stream = one.to_iterable_dataset()
    with refused(UsageError, "the IterableDataset has no length", "say how many to take by num_data=N"):
        as_dataset(stream)
    data = as_dataset(stream, num_data=15)
    assert torch.equal(data.split("train"), torch.tensor(X[:15])) and data.labels["train"].tolist() == labels_of(15)
    changed = one.with_transform(lambda batch: {"v": torch.tensor(batch["v"]) + 1, "label": batch["label"]})
    data = as_dataset(changed, fields={"x": "v", "labels": "label"})
    assert torch.equal(data.split("train"), torch.tensor(X[:20]) + 1)
