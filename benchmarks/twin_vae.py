"""VAEs with one code in plain torch: guides, priors and bounds, each as one would write it for an eager loop.

Densities of codes leave out the constant of the normal, which is the same in p(z) and q(z|x). A bound returns what is
differentiated and what is reported, both summed over the batch, in nats.
"""

from argparse import Namespace
from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from twin_networks import Made, Networks, perceptrons

Losses = tuple[Tensor, Tensor]


def noise(like: Tensor, particles: int) -> Tensor:
    """Standard normal, as large as a batch of codes `[B, latent]`, or as so many."""
    return torch.randn((particles, *like.shape) if particles else like.shape)


# ---- guides


class Diagonal(nn.Module):
    """Independent normals."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.outputs = 2 * args.latent

    def forward(self, params: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """The encoder's output to codes `[*particles, B, latent]`, and their log q(z|x)."""
        loc, log_scale = params.chunk(2, -1)
        e = noise(loc, particles)
        return loc + log_scale.exp() * e, -(0.5 * e.square() + log_scale).sum(-1)


class Full(nn.Module):
    """A normal with a dense lower-triangular scale."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.size = args.latent
        rows, columns = torch.tril_indices(self.size, self.size, offset=-1)
        self.places = torch.cat([torch.arange(self.size) * (self.size + 1), rows * self.size + columns])
        self.outputs = self.size + len(self.places)

    def forward(self, params: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """As `Diagonal`; for one draw."""
        loc, log_diagonal, below = params.split([self.size, self.size, len(self.places) - self.size], -1)
        entries = torch.cat([log_diagonal.exp(), below], -1)
        scale = params.new_zeros(len(params), self.size**2).index_copy(1, self.places, entries)
        e = noise(loc, particles)
        z = torch.baddbmm(loc.unsqueeze(-1), scale.view(-1, self.size, self.size), e.unsqueeze(-1)).squeeze(-1)
        return z, -(0.5 * e.square() + log_diagonal).sum(-1)


class InverseAutoregressive(nn.Module):
    """A normal followed by two gated autoregressive steps, the second backwards."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.size, self.context = args.latent, 16
        self.steps = nn.ModuleList(Made(self.size, self.context, 2, 64) for _ in range(2))
        self.outputs = 2 * self.size + self.context

    def forward(self, params: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """As `Diagonal`; for one draw."""
        loc, log_scale, context = params.split([self.size, self.size, self.context], -1)
        e = noise(loc, particles)
        z, log_q = loc + log_scale.exp() * e, 0.5 * e.square() + log_scale
        for number, step in enumerate(self.steps):
            if number:
                z = z.flip(-1)
            logit, other = step(z, context).unflatten(-1, (self.size, 2)).unbind(-1)
            gate = 1e-3 + (1 - 1e-3) * (logit + 2).sigmoid()
            z, log_q = torch.lerp(other, z, gate), log_q + gate.log()
            if number:
                z = z.flip(-1)
        return z, -log_q.sum(-1)


# ---- priors


class Standard(nn.Module):
    """N(0, I)."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()

    def forward(self, z: Tensor, encoder: nn.Module) -> Tensor:
        """Log p(z), `[*particles, B]`."""
        return -0.5 * z.square().sum(-1)


class Mixture(nn.Module):
    """A mixture of ten normals."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(10))
        self.loc = nn.Parameter(torch.randn(10, args.latent))
        self.log_scale = nn.Parameter(torch.zeros(10, args.latent))

    def forward(self, z: Tensor, encoder: nn.Module) -> Tensor:
        """As `Standard`."""
        return log_mixture(z, self.logits.log_softmax(-1), self.loc, self.log_scale)


class Vamp(nn.Module):
    """A mixture of q(z|u) at learned pseudo-inputs u."""

    def __init__(self, args: Namespace, components: int) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.empty(components, 784))

    def forward(self, z: Tensor, encoder: nn.Module) -> Tensor:
        """As `Standard`."""
        loc, log_scale = encoder(Projected.apply(self.pseudo_inputs)).chunk(2, -1)
        return log_mixture(z, loc.new_full((len(loc),), -log(len(loc))), loc, log_scale)


class Projected(torch.autograd.Function):
    """Values clamped to [0, 1], without the gradients that point outwards there."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        """Clamp."""
        ctx.save_for_backward(value)
        return value.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """Mask."""
        (value,) = ctx.saved_tensors
        return gradient.masked_fill(((value <= 0) & (gradient > 0)) | ((value >= 1) & (gradient < 0)), 0.0)


def log_mixture(z: Tensor, log_weights: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The log-density of a mixture of normals, by one product; in double precision, since its terms cancel."""
    double, loc, log_scale = z.double(), loc.double(), log_scale.double()
    precision = (-2 * log_scale).exp()
    scaled = precision * loc
    constant = log_weights - (0.5 * scaled * loc + log_scale).sum(-1)
    joint = torch.addmm(constant, torch.cat([double.square(), double], -1), torch.cat([-0.5 * precision, scaled], -1).T)
    return joint.logsumexp(-1).to(z.dtype)


# ---- bounds


class Twin(nn.Module):
    """A VAE.

    Args:
        args: the options.
        particles: draws for each datum; 0 for one, without a dimension.
        guide: q(z|x).
        prior: p(z).
        networks: encoder and decoder.
    """

    def __init__(
        self,
        args: Namespace,
        particles: int = 0,
        guide: Callable[[Namespace], Any] = Diagonal,
        prior: Callable[[Namespace], Any] = Standard,
        networks: Networks = perceptrons,
    ) -> None:
        super().__init__()
        self.particles = particles
        self.log_prior, self.guide = prior(args), guide(args)
        self.encoder, self.decoder = networks(args, self.guide.outputs)

    def start(self, x: Tensor) -> None:
        """Put what starts from data at rows of it."""
        if isinstance(self.log_prior, Vamp):
            self.log_prior.pseudo_inputs.data.copy_(x[: len(self.log_prior.pseudo_inputs)])


class Elbo(Twin):
    """The negative ELBO, all terms at the draws."""

    def forward(self, x: Tensor) -> Losses:
        """For a batch `[B, 784]`."""
        z, log_q = self.guide(self.encoder(x), self.particles)
        logits = self.decoder(z)
        ones = logits.sum(0) if self.particles else logits
        distortion = softplus(logits).sum() - (x * ones).sum()
        loss = (log_q.sum() - self.log_prior(z, self.encoder).sum() + distortion) / max(self.particles, 1)
        return loss, loss


class ClosedForm(Twin):
    """The negative ELBO with the KL in closed form."""

    def forward(self, x: Tensor) -> Losses:
        """For a batch `[B, 784]`."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        logits = self.decoder(loc + scale * noise(loc, 0))
        kl = (0.5 * (loc.square() + scale.square() - 1) - log_scale).sum()
        loss = kl + softplus(logits).sum() - (x * logits).sum()
        return loss, loss


class Iwae(Twin):
    """The importance weighted bound."""

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Losses:
        """For a batch `[B, 784]`, 0 where it is not observed; `observed` is 1 or 0."""
        z, log_q = self.guide(self.encoder(x), self.particles)
        log_weights = log_bernoulli(self.decoder(z), x, observed) + self.log_prior(z, self.encoder) - log_q
        loss = -log_mean_exp(log_weights).sum()
        return loss, loss


class DoublyReparameterized(Twin):
    """The same bound with doubly reparameterised gradients, by a hook on the draws."""

    def forward(self, x: Tensor) -> Losses:
        """For a batch `[B, 784]`."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * noise(loc, self.particles)
        held, log_scale = loc.detach(), log_scale.detach()
        log_q = -(0.5 * ((z - held) * (-log_scale).exp()).square() + log_scale).sum(-1)
        log_weights = log_bernoulli(self.decoder(z), x) + self.log_prior(z, self.encoder) - log_q
        share = log_weights.detach().softmax(0)
        z.register_hook(lambda gradient: share.unsqueeze(-1) * gradient)
        return -(share * log_weights).sum(), -log_mean_exp(log_weights.detach()).sum()


def log_bernoulli(logits: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """Log p(x|z) of the observed pixels, `[*particles, B]`."""
    zeros = softplus(logits) if observed is None else softplus(logits) * observed
    return (x * logits).sum(-1) - zeros.sum(-1)  # two sums are quicker than one of the difference


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Over the particles, which come first."""
    return log_weights.logsumexp(0) - log(len(log_weights))
