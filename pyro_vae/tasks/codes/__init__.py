"""What a trained model knows of data as codes: encode them, look at them, move through them.

Its files:

    encoding.py      encode_data: means, spreads and draws of the codes of data
    aggregate.py     aggregate_posterior, with_aggregate: q(z), the mean of q(z|x) over data
    traversing.py    traverse: one coordinate of a code moved at a time
    paths.py         interpolate: paths between codes
    curves.py        straight, spherical and bent curves
    geodesics.py     lengths in the decoder's metric, and the shortest curve
    editing.py       attribute_vector, edit: codes moved along what an attribute changes
    factors.py       mig, sap, dci: agreement of coordinates with known factors
    decoding.py      codes to means E[x|z]
"""

from pyro_vae.tasks.codes.aggregate import AggregatePosterior, aggregate_posterior, with_aggregate
from pyro_vae.tasks.codes.editing import Attribute, Edited, attribute_vector, edit
from pyro_vae.tasks.codes.encoding import Encoded, encode_data
from pyro_vae.tasks.codes.factors import DCI, dci, mig, sap
from pyro_vae.tasks.codes.paths import Paths, interpolate
from pyro_vae.tasks.codes.traversing import Traversal, traverse

__all__ = [
    "DCI",
    "AggregatePosterior",
    "Attribute",
    "Edited",
    "Encoded",
    "Paths",
    "Traversal",
    "aggregate_posterior",
    "attribute_vector",
    "dci",
    "edit",
    "encode_data",
    "interpolate",
    "mig",
    "sap",
    "traverse",
    "with_aggregate",
]
