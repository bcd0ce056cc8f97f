"""What a page shows: a model, data, and one datum of them or like them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data import Table
from pyro_vae.errors import UsageError
from pyro_vae.evidence.elbo import has_elbo
from pyro_vae.inference.programs import takes
from pyro_vae.tasks.codes import Encoded, encode_data
from pyro_vae.tasks.generation import sample

_DRAWS = 2000
"""Draws of the prior, for its spread."""
_OF_SITES = 50
"""Draws of the code of each datum, where its mean is an average of them."""


@dataclass(frozen=True, eq=False)
class Datum:
    """One datum with the programs' further inputs.

    Args:
        x: `[1, *event]`; any value where it is not observed.
        inputs: by name, `[1, ...]`; `mask` where not all elements are observed.
    """

    x: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor | None:
        """Which elements are observed, `[1, *event]`; None where all are."""
        return self.inputs.get("mask")

    @property
    def c(self) -> Tensor | None:
        """The context of a conditional model, `[1, *context]`."""
        return self.inputs.get("c")


@dataclass(frozen=True, eq=False)
class Explored:
    """A trained model, and data to show it with.

    Args:
        vae: any `Autoencoder`; left as it is.
        x: data `[N, *event]`, nan where not observed.
        inputs: further inputs of the programs by name, `[N, ...]`.
        labels: classes of the data, `[N]`, -1 where not known; None without labels.
        table: the columns, of data that come from a table.
        facts: lines for the head of the page, by name.

    Raises:
        UsageError: for a model that draws its missing elements, which has no code alone.
    """

    vae: Autoencoder
    x: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    table: Table | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vae.missing_site is not None:
            raise UsageError(
                f"a {type(self.vae).__name__} that draws the missing elements of x together with the code can't be "
                "explored: explore the run of the VAE inside, trained without it"
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def discrete(self) -> bool:
        """Whether the code is discrete (`VQVAE`)."""
        return self.vae.has_one_code and self.vae.code_site is None

    @property
    def single(self) -> bool:
        """Whether the code is one continuous site, with an encoder and a decoder of it alone."""
        return self.vae.code_site is not None

    @cached_property
    def encoded(self) -> Encoded:
        """The codes of the data, by continuous site."""
        return encode_data(self.vae, self.x, 1 if self.single else _OF_SITES, **self.inputs)

    @cached_property
    def site(self) -> str:
        """The continuous site that is shown: the first that the model draws; of several layers the top."""
        return next(iter(self.encoded.mean))

    @cached_property
    def prior_draws(self) -> Tensor:
        """Draws of the site from the model, `[draws, L]`; with a context, that of the first datum."""
        c = self.inputs.get("c")
        drawn = sample(self.vae, _DRAWS, c=None if c is None else c[0])
        return drawn.latents[self.site].flatten(1).double()

    @cached_property
    def has_elbo(self) -> bool:
        """Whether the guide has a density or discrete points, and so an ELBO."""
        first = self.datum(0)
        return has_elbo(self.vae.guide, first.x, **first.inputs)

    @property
    def has_masks(self) -> bool:
        """Whether both programs take a mask of observed elements."""
        return takes(self.vae.model, "mask") and takes(self.vae.guide, "mask")

    def datum(self, index: int) -> Datum:
        """A datum of the data, by its position."""
        row = slice(index, index + 1)
        return Datum(self.x[row], {name: value[row] for name, value in self.inputs.items()})

    def like(self, index: int, x: Tensor) -> Datum:
        """A datum with other values than one of the data, and the inputs of that.

        Args:
            index: which.
            x: `[*event]`, nan where not observed.

        Raises:
            UsageError: if there is a nan, and the programs take no mask.
            DataError: if a value is outside the likelihood's support.
        """
        x = x[None].to(self.x)
        mask, inputs = ~x.isnan(), {name: v for name, v in self.datum(index).inputs.items() if name != "mask"}
        if not mask.all() and not self.has_masks:
            raise UsageError(f"the programs of a {type(self.vae).__name__} take no mask: every element needs a value")
        filled = self.vae.likelihood.filled(x, mask)
        self.vae.likelihood.check(filled, "x")
        return Datum(filled, inputs if mask.all() else {**inputs, "mask": mask})

    @property
    def blank(self) -> Tensor:
        """A tensor of the type and on the device of the weights."""
        weights = next(self.vae.parameters())
        return torch.zeros((), dtype=weights.dtype, device=weights.device)
