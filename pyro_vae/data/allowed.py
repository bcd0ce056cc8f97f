"""Whether a data set holds only values that a likelihood gives probability to."""

from typing import Any

from pyro_vae.data.dataset import Dataset, observed_chunks


def check_allowed(vae: Any, data: Dataset) -> None:
    """Refuse a data set of another shape, or with observed values outside the support, in any split.

    Args:
        vae: an autoencoder, whose likelihood says which data are allowed; other modules allow all.
        data: read part by part.

    Raises:
        DataError: with the split, the first such value, its position and the remedy.
    """
    likelihood = getattr(vae, "likelihood", None)
    if likelihood is None:
        return
    for name in ("train", "valid", "test"):
        if getattr(data, name) is not None:
            start = 0
            for x, mask in observed_chunks(data, name):
                likelihood.check(x, f"{name} data[{start}:]" if start else f"{name} data", mask)
                start += len(x)
