"""The state of a training, as tensors and plain numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import safetensors.torch
from torch import Tensor

from pyro_vae.runs.formats import (
    KINDS,
)

MISFIT = {
    "weights": "the weights do not fit this training",
    "optimizer": "the optimizer's tensors do not fit this training",
    "best": "the best weights do not fit this training",
}


# ---- the state of a training ---------------------------------------------------------------------------------------


@dataclass
class State:
    """All that a training needs to continue as if it had not stopped.

    Args:
        weights: the module's state dict.
        optimizer: the optimizer's tensors by `index/name`.
        best: the state dict with the best validation value so far; empty if none is kept.
        progress: plain numbers: epoch, step, sums of the epoch under way, best bound, ...
        rows: the rows of metrics.csv, one an epoch.
        files: the beginning of the message if one of the three does not fit.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    progress: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=lambda: {kind: f"process 0: {MISFIT[kind]}" for kind in KINDS})

    def to_bytes(self) -> bytes:
        """As bytes for another process: the length of the JSON, the JSON, safetensors."""
        plain = json.dumps({"progress": self.progress, "rows": self.rows}).encode()
        tensors = {f"{kind}/{name}": t for kind in KINDS for name, t in getattr(self, kind).items()}
        return len(plain).to_bytes(8, "little") + plain + tensor_bytes(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`."""
        start = 8 + int.from_bytes(data[:8], "little")
        kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
        for key, tensor in safetensors.torch.load(data[start:]).items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = tensor
        return cls(**kinds, **json.loads(data[8:start]))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors, which has no shared tensors: tied weights are written twice."""
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})
