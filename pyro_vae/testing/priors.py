"""The contract of a prior."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.autoencoders import VAE
from pyro_vae.priors import Encode, Prior
from pyro_vae.testing import code_distributions as codes
from pyro_vae.testing import inside_a_vae as whole
from pyro_vae.testing.contract import Check, expect, expect_gradient, expect_gradients, not_applicable
from pyro_vae.testing.modules import (
    LEADING,
    expect_copies_and_loads,
    expect_moves_and_casts,
    expect_recordable,
    expect_takes_options,
    perturbed,
    small_mlp,
)
from pyro_vae.testing.parts import Part


@dataclass(frozen=True)
class _Given:
    """A prior and the arguments that it is called with."""

    prior: Prior
    encode: Encode
    dtype: torch.dtype = torch.float32

    def context(self, *leading: int) -> Tensor | None:
        """A random context; None if the prior takes none."""
        shape = self.prior.shapes.context
        return None if shape is None else torch.randn(*leading, *shape, dtype=self.dtype)

    def __call__(self, *leading: int) -> Any:
        return self.prior(self.encode, self.context(*leading))


def build(part: Part, latent: int | None = None) -> Prior:
    """The prior, with a context if it requires one."""
    return part(whole.shapes_for(part, latent))


def _given(part: Part, latent: int | None = None, double: bool = False) -> _Given:
    """The prior with slightly moved parameters, and the map x -> q(z|x) of a small VAE."""
    prior = perturbed(build(part, latent))
    vae = VAE(part.event, prior.shapes.latent, encoder=small_mlp, decoder=small_mlp)
    return _Given(prior.double(), vae.double().encode, torch.float64) if double else _Given(prior, vae.encode)


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def shapes(part: Part) -> None:
    """Event shape (latent,); batch shape () or that of the context; draws and log-densities have them too."""
    for latent in (1, part.latent, 20):
        given = _given(part, latent)
        for leading in LEADING:
            codes.expect_codes(given(*leading), () if given.context() is None else leading, latent)


def rows_do_not_mix(part: Part) -> None:
    """The density of one code does not depend on the other codes of the batch."""
    given = _given(part, double=True)
    context = given.context(4)
    batch = given.prior(given.encode, context).expand(torch.Size((4,)))
    alone = [given.prior(given.encode, None if context is None else context[i]) for i in range(4)]
    codes.expect_rows_apart(batch, alone)


def normalises(part: Part) -> None:
    """Its density integrates to 1."""
    codes.expect_codes_normalised(_given(part, 1, double=True)(), _given(part, 2, double=True)())


def draws_follow_the_density(part: Part) -> None:
    """Draws have the density that log_prob states, in one dimension and in more."""
    codes.expect_draws_follow(_given(part, 1, double=True)())
    codes.expect_density_of_draws(_given(part)())


def moments(part: Part) -> None:
    """`mean` and `variance`, if implemented, agree with its draws."""
    codes.expect_moments(_given(part)())


def gradients(part: Part) -> None:
    """The log-density has a gradient for the codes and for every parameter."""
    given = _given(part)
    z = torch.randn(64, part.latent, requires_grad=True)
    given(64).log_prob(z).sum().backward()
    expect_gradient("the code", z.grad, "log p(z)")
    expect_gradients(given.prior, "log p(z)")


def depends_on_its_context(part: Part) -> None:
    """A prior built with a context depends on it."""
    given = _given(part)
    if given.context() is None:
        raise not_applicable("a prior p(z) without context")
    z = torch.zeros(part.latent)
    first, second = (given().log_prob(z).item() for _ in range(2))
    expect(first != second, "p(z|c) to differ between two contexts", f"{first} for both")


def copies_and_loads(part: Part) -> None:
    """A deep copy computes the same, and so does a fresh instance with its state dict."""
    given = _given(part)
    z, context = torch.randn(5, part.latent), given.context(5)
    expect_copies_and_loads(lambda: build(part), lambda prior: prior(given.encode, context).log_prob(z))


def moves_and_casts(part: Part) -> None:
    """`to` moves all its tensors, and it computes in the dtype of its parameters."""
    given = _given(part, double=True)
    expect_moves_and_casts(lambda: build(part), lambda prior: prior(given.encode, given.context()).sample())


def can_be_recorded(part: Part) -> None:
    """A recorded graph of its log-density is also correct for other codes and other weights."""
    given = _given(part)
    context = given.context(5)
    inputs, others = ([torch.randn(5, part.latent)] for _ in range(2))
    expect_recordable(given.prior, lambda z: given.prior(given.encode, context).log_prob(z), inputs, others)


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    shapes,
    rows_do_not_mix,
    normalises,
    draws_follow_the_density,
    moments,
    gradients,
    depends_on_its_context,
    copies_and_loads,
    moves_and_casts,
    can_be_recorded,
    *whole.CHECKS,
)
