"""What a trained model knows of data as codes: encode them, look at them, move through them.

Its files:

    encoding.py      encode_data: means, spreads and draws of the codes of data
    aggregate.py     aggregate_posterior, with_aggregate: q(z), the mean of q(z|x) over data
"""

from pyro_vae.tasks.codes.aggregate import AggregatePosterior, aggregate_posterior, with_aggregate
from pyro_vae.tasks.codes.encoding import Encoded, encode_data

__all__ = [
    "AggregatePosterior",
    "Encoded",
    "aggregate_posterior",
    "encode_data",
    "with_aggregate",
]
