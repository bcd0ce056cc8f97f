"""A trained model for other programs and other people: as ONNX or a program of torch.export, as a page, on the hub.

    from pyro_vae.sharing import export

Its files:

    exporting.py    export: encoder and decoder as files, compared with the model before they are written
    parts.py        the maps of an autoencoder as functions of tensors alone
    formats.py      such a map as a file, and the file run again
    about.py        what a file says of itself
    source.py       what is shared: an autoencoder, and what its run says of it
    extras.py       packages that an extra brings
"""

from pyro_vae.sharing.exporting import Exported, File, export

__all__ = ["Exported", "File", "export"]
