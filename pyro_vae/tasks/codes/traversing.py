"""`traverse`: what each coordinate of a code does to the data, by moving it alone."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.inference.moments import Moments, moments, normal_kl
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.tasks.codes.decoding import decoded
from pyro_vae.tasks.codes.encoding import Encoded, encode_data
from pyro_vae.tasks.generation import inputs_of

Along = Literal["aggregate", "prior"]


@dataclass(frozen=True, eq=False)
class Traversal:
    """A row of decoded means for each coordinate of the code, the coordinate with the highest KL first.

    Args:
        dims: the coordinates, `[D]`.
        kl: mean over the data of KL(q(z_i|x) || p(z_i)), `[D]`, nats; that of normals with the same moments.
        kl_standard_error: its standard error from having N data, `[D]`.
        steps: how far a coordinate is moved, `[S]`, in standard deviations.
        values: the coordinate's values, `[D, S]`.
        centre: the code that is moved, `[latent]`.
        x: E[x|z], `[D, S, *event]`.
        along: whose mean and standard deviation the values are of, in words.
    """

    dims: Tensor
    kl: Tensor
    kl_standard_error: Tensor
    steps: Tensor
    values: Tensor
    centre: Tensor
    x: Tensor
    along: str

    @property
    def change(self) -> Tensor:
        """Root mean squared distance of E[x|z] from its mean along the row, `[D]`, in the units of x per element."""
        return (self.x - self.x.mean(1, keepdim=True)).double().flatten(1).square().mean(1).sqrt()

    def first(self, num: int) -> "Traversal":
        """The coordinates with the highest KL alone."""
        names = ("dims", "kl", "kl_standard_error", "values", "x")
        return replace(self, **{name: getattr(self, name)[:num] for name in names})

    def __repr__(self) -> str:
        rows = [f"{d}: {kl:.3f} nats" for d, kl in zip(self.dims.tolist(), self.kl.tolist(), strict=True)]
        return f"Traversal({', '.join(rows)}; {len(self.steps)} steps {self.along})"


@isolated
@checked
def traverse(
    vae: Autoencoder,
    x: Tensor,
    steps: int = 7,
    *,
    span: float = 3.0,
    along: Along = "aggregate",
    datum: int | None = None,
    c: Tensor | None = None,
    **inputs: Tensor,
) -> Traversal:
    r"""Move one coordinate of a code at a time, and decode.

    .. math:: x_{is} = E[x | z_1, ..., m_i + t_s \tau_i, ..., z_L], \qquad t_s \in [-\mathrm{span}, \mathrm{span}]

    With `along="aggregate"`, m and tau are the mean and the standard deviation of the aggregate posterior of the data,
    the mean of q(z|x): where codes of data are. With `"prior"` they are those of p(z), of N(0, 1) the quantiles
    Phi(t). The other coordinates stay at m, or at E[z|x] of one datum. Rows are in the order of the KL of each
    coordinate from the prior: those that carry nothing come last, and their rows do not change.

    Args:
        vae: a model with a `code_site`, e.g. a `VAE`; left as it is.
        x: data `[N, *event]`, at least 2, whose codes set order, centre and range.
        steps: S, values of each coordinate, at least 2.
        span: how far to go, in standard deviations, positive.
        along: `"aggregate"` or `"prior"`.
        datum: move the code of this datum of x; None for the mean of the distribution `along`.
        c: the context of a conditional model, `[N, *context]` or `[*context]`; that of `datum`, or of the first, is
            decoded with.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`.

    Returns:
        A `Traversal`, on the CPU, of all coordinates.

    Raises:
        UsageError: if the model has no single continuous code, or an option is out of range.
        NumericalError: if the decoder's output is not finite.

    References:
        Higgins et al. 2017, beta-VAE, figure 1.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> traverse(VAE((8, 8), latent_dim=3), torch.rand(5, 8, 8).round(), steps=5).x.shape
        torch.Size([3, 5, 8, 8])
    """
    _check(vae, x, steps, span, along, datum)
    encoded = encode_data(vae, x, num_draws=1, seed=0, c=c, progress=None, **inputs)
    with evaluation_mode(vae):
        prior = moments(vae.prior_distribution(inputs_of(vae, len(x), {}, c).get("c")), "the prior p(z)")
        kl = normal_kl(encoded.codes, _sd(encoded), *prior)
        m, tau = _aggregate(encoded) if along == "aggregate" else _one_of(prior)
        centre = m if datum is None else encoded.codes[datum]
        order = kl.mean(0).argsort(descending=True, stable=True)
        t = torch.linspace(-span, span, steps, dtype=torch.float64)
        values = (m + t[:, None] * tau).T[order]
        z = centre.expand(len(order), steps, -1).clone()
        z[torch.arange(len(order)), :, order] = values
        means = decoded(vae, z, c, datum or 0)
    error = kl.std(0) / len(x) ** 0.5
    whose = {"aggregate": "the aggregate posterior q(z)", "prior": "the prior p(z)"}[along]
    text = f"from {-span:g} to {span:g} standard deviations of {whose}"
    return Traversal(order, kl.mean(0)[order], error[order], t, values, centre, means, text)


def _check(vae: Autoencoder, x: Tensor, steps: int, span: float, along: str, datum: int | None) -> None:
    if vae.code_site is None:
        raise UsageError(f"traverse moves the code z of a model with one latent site, got a {type(vae).__name__}")
    if len(x) < 2 or steps < 2 or not span > 0:
        dashes = spoken("", "--")
        raise UsageError(
            f"need at least 2 data, {dashes}steps >= 2 and {dashes}span > 0, got {len(x)} data, steps {steps} and "
            f"span {span}"
        )
    if along not in ("aggregate", "prior"):
        raise UsageError(f"along: expected 'aggregate' or 'prior', got {along!r}")
    if datum is not None and not 0 <= datum < len(x):
        raise UsageError(f"{spoken('', '--')}datum: expected an index from 0 to {len(x) - 1}, got {datum}")


def _sd(encoded: Encoded) -> Tensor:
    return next(iter(encoded.sd.values())).flatten(1)


def _one_of(prior: Moments) -> Moments:
    """The prior's own moments; of p(z|c) the averages over the data."""
    mean, sd = (value.reshape(-1, value.shape[-1]).mean(0) for value in prior)
    return mean, sd


def _aggregate(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z) over the data: the variance is that within plus that between."""
    mean, sd = encoded.codes, _sd(encoded)
    return mean.mean(0), (sd.square().mean(0) + mean.var(0, correction=0)).sqrt()
