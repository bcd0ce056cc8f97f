"""A trained model for other programs and other people: as ONNX or a program of torch.export, as a page, on a hub.

    from pyro_vae.sharing import export, from_pretrained, model_card, push_to_hub

Its files:

    exporting.py    export: encoder and decoder as files, compared with the model before they are written
    parts.py        the maps of an autoencoder as functions of tensors alone
    formats.py      such a map as a file, and the file run again
    about.py        what a file says of itself
    card.py         model_card: a page with what was measured of a run, and what was not
    in_words.py     a model in words: how to load it, its parts, its data
    measured.py     what `pyro-vae evaluate` and `diagnose` saved, each number with its errors and its protocol
    markdown.py     tables and code of texts that may hold anything
    hub.py          push_to_hub, save_pretrained, from_pretrained
    source.py       what is shared: an autoencoder, and what its run says of it
    extras.py       packages that an extra brings
"""

from pyro_vae.sharing.card import model_card
from pyro_vae.sharing.exporting import Exported, File, export
from pyro_vae.sharing.hub import from_pretrained, push_to_hub, save_pretrained

__all__ = ["Exported", "File", "export", "from_pretrained", "model_card", "push_to_hub", "save_pretrained"]
