"""A short name for some data, by which two estimates are known to be of the same."""

import hashlib

import torch
from torch import Tensor

from pyro_vae.data.storage import chunk_rows


def fingerprint(x: Tensor, *args: Tensor, **inputs: Tensor) -> str:
    """The sha256 of data and of what else the programs are given: equal for equal values, on any device.

    Args:
        x: data `[N, *event]`.
        *args: further tensors.
        **inputs: tensors by name; their order does not matter.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> fingerprint(torch.ones(2)) == fingerprint(torch.ones(2).double()) != fingerprint(torch.zeros(2))
        True
    """
    digest = hashlib.sha256()
    named = [("x", x), *((str(i), a) for i, a in enumerate(args)), *sorted(inputs.items())]
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        for part in tensor.detach().split(chunk_rows(tensor)) if tensor.dim() else [tensor.detach()]:
            digest.update(part.cpu().to(torch.float32).flatten().numpy().data)
    return digest.hexdigest()
