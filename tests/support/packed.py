"""Arrays of the page, as the server packs them."""

import base64

import numpy as np


def unpacked(plain):
    """The numbers of `pyro_vae.explore.plain.packed`."""
    return np.frombuffer(base64.b64decode(plain["float32"]), "<f4").reshape(plain["shape"])
