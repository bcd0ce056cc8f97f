"""Restricted Boltzmann machines: p(v, h) = exp(v.a + h.b + v.W.h) / Z over bits v and h, trained by PCD."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from other_models.annealing import bracket
from other_models.common import Budget, Data, LogP, Trained, batches
from other_models.independent import rates


@dataclass(frozen=True)
class Machine:
    """The weights, and the conditionals that Gibbs sampling needs.

    Args:
        weight: W, `[64, H]`.
        visible: a, `[64]`.
        hidden: b, `[H]`.
    """

    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def log_unnormalised(self, v: Tensor) -> Tensor:
        """The unnormalised log p(v), log sum_h exp(v.a + h.b + v.W.h), `[N]`: it lacks -log Z."""
        return v @ self.visible + softplus(v @ self.weight + self.hidden).sum(-1)

    def hidden_means(self, v: Tensor) -> Tensor:
        """p(h = 1 | v), `[N, H]`."""
        return (v @ self.weight + self.hidden).sigmoid()

    def visible_means(self, h: Tensor) -> Tensor:
        """p(v = 1 | h), `[N, 64]`."""
        return (h @ self.weight.T + self.visible).sigmoid()

    def step(self, v: Tensor) -> Tensor:
        """One step of Gibbs sampling: h given v, then v given h."""
        return torch.bernoulli(self.visible_means(torch.bernoulli(self.hidden_means(v))))

    def double(self) -> "Machine":
        """In double precision."""
        return replace(self, **{name: value.double() for name, value in vars(self).items()})


def learn(data: Data, budget: Budget, hidden: int, chains: int = 100, rate: float = 0.4) -> Machine:
    """Persistent contrastive divergence (Tieleman 2008): the chains of the model run on between the batches."""
    visible = rates(data).logit().float()
    machine = Machine(0.01 * torch.randn(64, hidden), visible, torch.zeros(hidden))
    fantasy = torch.bernoulli(visible.sigmoid().expand(chains, -1))
    for done, x in batches(data, budget.epochs):
        fantasy = machine.step(fantasy)
        machine = climbed(machine, x, fantasy, rate * (1 - done))
    return machine


def climbed(machine: Machine, x: Tensor, fantasy: Tensor, rate: float) -> Machine:
    """A step along E_data[d log f] - E_model[d log f], where f is the unnormalised p(v); weights decay by 1e-4."""
    with_x, with_fantasy = machine.hidden_means(x), machine.hidden_means(fantasy)
    slope = x.T @ with_x / len(x) - fantasy.T @ with_fantasy / len(fantasy)
    return Machine(
        machine.weight + rate * (slope - 1e-4 * machine.weight),
        machine.visible + rate * (x.mean(0) - fantasy.mean(0)),
        machine.hidden + rate * (with_x.mean(0) - with_fantasy.mean(0)),
    )


def states_of(hidden: int) -> Tensor:
    """All states of h, `[2^H, H]`, double precision."""
    return (torch.arange(2**hidden)[:, None] >> torch.arange(hidden) & 1).double()


def log_weights_of_states(machine: Machine) -> Tensor:
    """The terms log sum_v exp(v.a + h.b + v.W.h) of all states of h, `[2^H]`: log Z is their log-sum-exp."""
    exact = machine.double()
    parts = states_of(len(exact.hidden)).split(2**14)
    return torch.cat([h @ exact.hidden + softplus(h @ exact.weight.T + exact.visible).sum(1) for h in parts])


def exact_log_z(machine: Machine) -> float:
    """The log Z by summing over all states of h: 2^16 of them for 16 hidden units, out of reach beyond about 25."""
    return log_weights_of_states(machine).logsumexp(0).item()


def exact_draws(machine: Machine, n: int) -> Tensor:
    """Independent draws of v, `[n, 64]`: a state of h by its exact probability, then v given h."""
    places = log_weights_of_states(machine).softmax(0).multinomial(n, replacement=True)
    return torch.bernoulli(machine.visible_means(states_of(len(machine.hidden))[places].float()))


def long_draws(machine: Machine, start: Tensor, steps: int) -> Tensor:
    """Ends of chains that begin at `start`: near draws from p(v) if the chains mix."""
    for _ in range(steps):
        start = machine.step(start)
    return start


def train(data: Data, budget: Budget, hidden: int, enumerated: bool) -> Trained:
    """A machine whose log Z is summed over all states of h, or else bracketed by annealing."""
    machine = learn(data, budget, hidden)
    base = rates(data).logit().float()
    start = torch.bernoulli(base.sigmoid().expand(budget.chains, -1))
    draws = exact_draws(machine, budget.chains) if enumerated else long_draws(machine, start, budget.draws)
    found: dict[str, Any] = {"kind": "exact", "how": f"log Z as a sum over 2^{hidden} states of h"}
    if enumerated:
        log_z = exact_log_z(machine)
    else:
        z = bracket(machine, base, budget.temperatures, draws)
        log_z = (z.lower + z.upper) / 2
        found = {"kind": "bracket", "how": z.protocol, "half_width": abs(z.upper - z.lower) / 2}
        found["monte_carlo"] = (z.lower_error**2 + z.upper_error**2) ** 0.5 / 2
    return Trained(
        name=f"Boltzmann machine, {hidden} hidden",
        family="exact" if enumerated else "bounded",
        parameters=machine.weight.numel() + 64 + hidden,
        sample=lambda n: more(machine, draws, n),
        log_p=lambda x: LogP(machine.double().log_unnormalised(x.double()) - log_z, **found),
        reconstruct=lambda x: machine.visible_means(machine.hidden_means(x)),
        encode=machine.hidden_means,
        impute=lambda x, mask: clamped(machine, x, mask),
        anomaly=lambda x: -machine.log_unnormalised(x),
    )


def more(machine: Machine, draws: Tensor, n: int) -> Tensor:
    """More draws, `[n, 64]`: some of those there are, moved on a little."""
    return long_draws(machine, draws[torch.randint(len(draws), (n,))], 50)


def clamped(machine: Machine, x: Tensor, mask: Tensor, steps: int = 400) -> Tensor:
    """The mean of p(v|h) over Gibbs sampling with the observed bits held."""
    v, total = torch.where(mask, x, torch.bernoulli(torch.full_like(x, 0.5))), torch.zeros_like(x)
    for step in range(steps):
        means = machine.visible_means(torch.bernoulli(machine.hidden_means(v)))
        v = torch.where(mask, x, torch.bernoulli(means))
        total += means * (step >= steps // 4)
    return torch.where(mask, x, total / (steps - steps // 4))
