"""Training speed of Pyro used as in its own VAE example: `SVI`, `Trace_ELBO`, `pyro.optim.Adam`, a `DataLoader`."""

from argparse import Namespace

import pyro
import pyro.distributions as dist
import torch
from common import Clock, print_training, training_arguments, training_parser
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_common import networks, set_up, training_images


class PyroVAE(nn.Module):
    """The example's module, with the reference networks."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.latent = args.latent
        self.encoder, self.decoder = networks(args)

    def model(self, x: Tensor) -> None:
        """The program of p(x, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], self.latent, dtype=x.dtype, device=x.device)
            scale = torch.ones(x.shape[0], self.latent, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            probs = torch.sigmoid(self.decoder(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The program of q(z|x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def main(argv: list[str] | None = None) -> None:
    """Time it and print the line."""
    args = training_arguments(training_parser(__doc__), argv)
    onednn = set_up(args)
    x = training_images(args)
    clock = Clock()
    vae = PyroVAE(args)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    loader = DataLoader(TensorDataset(x), batch_size=args.batch, shuffle=True)
    for _ in range(args.epochs + 1):
        total = 0.0
        for (rows,) in loader:
            total += svi.step(rows)
            clock.step()
        clock.epoch()
    print_training("Pyro's example", args, clock.rates(len(x)), total / len(x), clock.first_step_s, onednn=onednn)


if __name__ == "__main__":
    main()
