"""Pyro pairs whose every row has parameters of its own, all equal: one run gives a draw of a gradient for each row."""

from itertools import product

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Rows(nn.Module):
    """Parameters by name, repeated for each of `n` rows; with one row they are shared by all of a batch."""

    def __init__(self, n, **values):
        super().__init__()
        self.n = n
        for name, value in values.items():
            value = torch.as_tensor(value, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value.repeat(n, *[1] * value.dim())))

    def gradients(self, objective, x, names):
        """One draw of the gradient of minus the loss for each row, `[n, parameters]`."""
        loss = objective(self.model, self.guide, torch.full((self.n,), x, dtype=torch.float64))
        found = torch.autograd.grad(-loss, [getattr(self, name) for name in names], allow_unused=True)
        return torch.cat([g.reshape(self.n, -1) for g in found], 1)


class Chain(Rows):
    """Two latent sites, the second given the first in the guide and the other way in the model; not the posterior."""

    MODEL = ("weight", "slope")
    GUIDE = ("loc", "log_scale", "link", "shift", "log_width")

    def __init__(self, n, **values):
        start = {
            "weight": 0.8,
            "slope": 1.3,
            "loc": 0.4,
            "log_scale": -0.3,
            "link": 0.5,
            "shift": 0.1,
            "log_width": 0.1,
        }
        super().__init__(n, **{**start, **values})

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros_like(x), 1.0))
            z = pyro.sample("z", dist.Normal(torch.tanh(self.weight * top), 1.0))
            pyro.sample("x", dist.Normal(self.slope * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc * x, self.log_scale.exp()))
            pyro.sample("top", dist.Normal(self.link * z + self.shift, self.log_width.exp()))


class Discrete(Rows):
    """z in {0, 1, 2} and x in {0, 1}: all expectations are sums."""

    MODEL = ("prior", "emission")
    GUIDE = ("posterior",)

    def __init__(self, n):
        posterior = [[0.3, -0.8, 0.2], [-0.4, 0.6, 0.1]]
        super().__init__(n, prior=[0.2, -0.5, 0.4], emission=[-1.0, 0.3, 1.5], posterior=posterior)

    def model(self, x):
        x = x.reshape(len(x))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            logits = self.emission.expand(*z.shape, 3).gather(-1, z.unsqueeze(-1)).squeeze(-1)
            pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)

    def guide(self, x):
        x = x.reshape(len(x))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.Categorical(logits=self.posterior.expand(len(x), 2, 3)[torch.arange(len(x)), x.long()])
            )

    def tables(self):
        """log p(z), log p(x|z) as `[z, x]` and log q(z|x) as `[x, z]`, of the first row."""
        emission = torch.stack([-self.emission[0], self.emission[0]], -1)
        log_x = torch.nn.functional.logsigmoid(emission)
        return self.prior[0].log_softmax(-1), log_x, self.posterior[0].log_softmax(-1)

    def exact_gradient(self, surrogate, x, num_particles, names):
        """Expectation over all tuples of draws from q(z|x) of the gradient of `surrogate(log p [K], log q [K])`."""
        log_z, log_x, log_q = self.tables()
        total = torch.zeros((), dtype=torch.float64)
        for draws in product(range(3), repeat=num_particles):
            draws = list(draws)
            probability = log_q[x, draws].sum().exp().detach()
            total = total + probability * surrogate(log_z[draws] + log_x[draws, x], log_q[x, draws])
        return self.first(total, names)

    def exact_sleep(self):
        """Gradient of E_p[log q(z|x)] for the guide, by the sum over z and x."""
        log_z, log_x, log_q = self.tables()
        joint = (log_z.unsqueeze(-1) + log_x).exp().detach()
        return self.first((joint * log_q.T).sum(), self.GUIDE)

    def exact_elbo(self, x):
        """Gradient of the ELBO, by the sum over z."""
        log_z, log_x, log_q = self.tables()
        elbo = (log_q[x].exp() * (log_z + log_x[:, x] - log_q[x])).sum()
        return self.first(elbo, self.MODEL + self.GUIDE)

    def first(self, value, names):
        found = torch.autograd.grad(value, [getattr(self, name) for name in names], allow_unused=True)
        return torch.cat([g[0].reshape(-1) for g in found])


def agree(draws, expected):
    """Whether the mean of `[n, entries]` is within 5 standard errors of what is expected, exact or draws as well.

    Entries without noise must agree to rounding. False alarm: 6e-7 for each entry.
    """
    error = draws.var(0) / len(draws)
    if expected.dim() == 2:
        expected, error = expected.mean(0), error + expected.var(0) / len(expected)
    return bool(((draws.mean(0) - expected).abs() <= 5 * error.sqrt() + 1e-9).all())
