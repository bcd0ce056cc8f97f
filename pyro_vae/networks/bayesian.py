"""A posterior over the weights of a network: full variational Bayes."""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import number
from pyro_vae.errors import UsageError
from pyro_vae.networks.base import FromShapes, Network
from pyro_vae.networks.building import build
from pyro_vae.networks.dense import MLP


class Bayesian(Network):
    r"""A network with a normal posterior over its weights, for full variational Bayes (appendix F of AEVB).

    .. math:: q(\theta) = \prod_i N(\theta_i; \mu_i, \sigma_i^2), \quad p(\theta) = \prod_i N(\theta_i; 0, s^2), \qquad
        \sum_n \log p(x_n) \ge E_{q(\theta)}\Big[\sum_n \mathcal L(x_n; \theta)\Big] - KL(q(\theta) \| p(\theta))

    As a decoder it makes a VAE whose weights are latent variables, shared by all data. In training mode each call draws
    weights, one set for the whole batch; in evaluation mode the weights are their means, so that evidence, tasks and
    diagnostics are those of the VAE at the posterior mean. `fit` adds `KL(q(theta) || p(theta)) * B / N` to the loss
    that it minimises, as for `weight_prior`, which leaves these weights out; a loop of your own, or `pyro.infer.SVI`,
    must add it (`weight_divergence`). What `fit` reports is without it: the bound for each datum is minus `loss`
    minus `weight_divergence(vae) / N`. Weights are no sample sites: those have one value for each datum here.

    The weights are drawn outside of sample sites, so training is for one process.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        network: the network, called with the two shapes; its initial weights are the means.
        prior_scale: s, positive.
        start_scale: sigma of all weights at the start, positive.

    Raises:
        UsageError: if a scale is not positive, or the network can't be made.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, appendix F. Blundell et al. 2015, Weight uncertainty in
        neural networks.

    Example:
        >>> network = Bayesian((2,), (28, 28))
        >>> network.train()(torch.zeros(5, 2)).shape, bool(weight_divergence(network) > 0)
        (torch.Size([5, 28, 28]), True)
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        network: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        prior_scale: float = 1.0,
        start_scale: float = 0.01,
    ) -> None:
        super().__init__(in_shape, out_shape)
        for name, value in (("prior_scale", prior_scale), ("start_scale", start_scale)):
            if not number(name, value) > 0:
                raise UsageError(f"Bayesian needs {name} > 0, got {value}")
        self.prior_scale = prior_scale
        self.mean = build(network, self.in_shape, self.out_shape)
        self.log_scales = nn.ParameterList(torch.full_like(p, log(start_scale)) for p in self.mean.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*leading, *in_shape]` to `[*leading, *out_shape]`, by drawn weights in training mode."""
        if not self.training:
            return self.mean(x)
        pairs = zip(self.mean.named_parameters(), self.log_scales, strict=True)
        drawn = {name: mean + log_scale.exp() * torch.randn_like(mean) for (name, mean), log_scale in pairs}
        return torch.func.functional_call(self.mean, drawn, (x,))

    def divergence(self) -> Tensor:
        """KL(q(theta) || p(theta)), nats."""
        pairs = zip(self.mean.parameters(), self.log_scales, strict=True)
        return torch.stack([_divergence(*pair, self.prior_scale) for pair in pairs]).sum()

    def set_output_bias(self, bias: Tensor) -> None:
        """That of the means."""
        self.mean.set_output_bias(bias)

    def start_output_at(self, values: Tensor) -> None:
        """That of the means."""
        self.mean.start_output_at(values)

    @property
    def has_output_bias(self) -> bool:
        """As the network's."""
        return self.mean.has_output_bias


def _divergence(mean: Tensor, log_scale: Tensor, prior_scale: float) -> Tensor:
    """KL(N(mean, scale^2) || N(0, prior_scale^2)), summed."""
    log_ratio = log_scale - log(prior_scale)
    return ((mean / prior_scale).square() + (2 * log_ratio).exp() - 1).sum() / 2 - log_ratio.sum()


def weight_divergence(module: nn.Module) -> Tensor | float:
    """KL(q(theta) || p(theta)) of all `Bayesian` networks in a module, nats; 0 where there are none.

    Example:
        >>> weight_divergence(MLP((2,), (3,)))
        0.0
    """
    return sum((part.divergence() for part in module.modules() if isinstance(part, Bayesian)), 0.0)


def other_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that belong to no `Bayesian` network."""
    theirs = {p for part in module.modules() if isinstance(part, Bayesian) for p in part.parameters()}
    return [p for p in module.parameters() if p not in theirs]
